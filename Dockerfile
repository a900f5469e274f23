# Renewed by `make pin-images`.
ARG BASE=python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c

FROM ${BASE} AS builder

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /venv

# The dependencies have a layer of their own: it changes with the lock, not with the code.
COPY requirements.lock /build/
RUN /venv/bin/pip install --require-hashes -r /build/requirements.lock \
    && /venv/bin/pip uninstall --yes pip \
    && /venv/bin/python -m compileall -q /venv/lib

COPY app /service/app
RUN /venv/bin/python -m compileall -q /service/app


FROM ${BASE}
#checkov:skip=CKV_DOCKER_7:BASE has a tag and a digest, and `make lint` looks at both
#checkov:skip=CKV_DOCKER_2:Cloud Run asks /health/live and /health/ready itself, and ignores a HEALTHCHECK

# Nothing is written at run time: a read-only root works. The loopback addresses of a container nobody else reaches.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 CLOUD_SOCKETS_HOST=0.0.0.0
COPY --from=builder /venv /venv
COPY --from=builder /service /service

ARG VERSION=0.1.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="cloud-sockets" \
      org.opencontainers.image.description="Real-time WebSocket fan-out on Google Cloud Run, over Pub/Sub" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"

WORKDIR /service
USER 65532:65532
EXPOSE 8080
CMD ["python", "-m", "app"]
