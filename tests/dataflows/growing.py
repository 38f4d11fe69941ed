"""The replay of `bench_log.growth`, as it is or with a step that lets nothing go: what a bound on memory must tell."""

import json
import sys

from dataflows import bench_log
from infra import intake
from operators.drive import Step

KEPT = []


def forgetful(step: Step) -> Step:
    """The same step, by someone who keeps every answer."""

    def kept(*given):
        state, answer = step(*given)
        KEPT.append(answer)
        return state, answer

    return kept


if __name__ == "__main__":
    leaks, slices = json.loads(sys.argv[1])
    if leaks:
        intake.step = forgetful(intake.step)
    print(json.dumps(bench_log.growth(slices, batch=100)))
