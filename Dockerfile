# syntax=docker/dockerfile:1
# One image for every process of the orchestrator; the command says which: bridge, worker, beat, flower, migration, CLI.
# Two stages: the first one fetches (hashes checked) and builds, the second one has neither pip nor a compiler.

ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/orchestrator \
 && python -m venv /opt/tools

# The packages first: this layer is made again only when the lock changes.
COPY requirements-prod.lock requirements-build.lock ./
RUN pip --python /opt/orchestrator/bin/python install --require-hashes --only-binary :all: --no-deps \
        --requirement requirements-prod.lock \
 && /opt/tools/bin/pip install --require-hashes --only-binary :all: --no-deps --requirement requirements-build.lock

COPY pyproject.toml README.md LICENSE celeryconfig.py ./
COPY orchestrator ./orchestrator
COPY bridge ./bridge
COPY examples ./examples
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/dist . \
 && pip --python /opt/orchestrator/bin/python install --no-index --no-deps /build/dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="agent-orchestrator" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN pip uninstall --yes --quiet --root-user-action=ignore pip \
 && groupadd --gid 10001 orchestrator \
 && useradd --uid 10001 --gid orchestrator --no-create-home --home-dir /srv/orchestrator --shell /usr/sbin/nologin \
        orchestrator
COPY --from=build /opt/orchestrator /opt/orchestrator
ENV PATH=/opt/orchestrator/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/orchestrator
USER 10001:10001
CMD ["orchestrator", "--help"]
