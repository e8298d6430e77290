# aioq in a small image: no compiler, no cache, no root. An app's own package is mounted or copied to /app.
FROM python:3.13-slim AS build
RUN python -m venv /opt/aioq
ENV PATH=/opt/aioq/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY aioq aioq
# No [embedded]: in a container the server is another container. pip has done its work and stays behind.
RUN pip install '.[uvloop]' && pip uninstall -y pip

# The slim image has Debian's tzdata: time zones need nothing more.
FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin aioq
COPY --from=build /opt/aioq /opt/aioq
COPY docker/healthcheck.py /opt/aioq/healthcheck.py
# A probe of `--health-port` comes from outside of the container, whose own network the engine fences off; so it listens
# on all addresses here, unlike elsewhere.
ENV PATH=/opt/aioq/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 AIOQ_HEALTH_HOST=0.0.0.0
WORKDIR /app
USER aioq
# Podman and buildah keep this only with `--format docker`.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "/opt/aioq/healthcheck.py"]
# The worker is process 1, so a SIGTERM from the engine reaches it. The engine must wait longer than the
# worker's shutdown_timeout before it kills (compose.yaml: stop_grace_period).
CMD ["aioq", "--help"]
