# Stage 1 installs what stands in constraints.txt and compiles every kernel; stage 2 holds the result and no compiler.
FROM python:3.11.11-slim-bookworm AS build
WORKDIR /app
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UTP_CACHE_DIR=/app/cache
RUN python -m venv /app/venv
ENV PATH=/app/venv/bin:$PATH
COPY pyproject.toml constraints.txt README.md ./
COPY schemas schemas
COPY operators operators
COPY models models
COPY risk risk
COPY broker broker
COPY infra infra
COPY dataflows dataflows
COPY settings.toml ./
RUN pip install -c constraints.txt -e '.[live]' && python -m dataflows.warm

FROM python:3.11.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin utp
WORKDIR /app
# The cache is named by a hash of the sources and checked by their times: same path, same files.
COPY --from=build --chown=10001:10001 /app /app
RUN mkdir -p /app/var && chown 10001:10001 /app/var
ENV PATH=/app/venv/bin:$PATH UTP_CACHE_DIR=/app/cache PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
ENTRYPOINT []
CMD ["utp", "--help"]
