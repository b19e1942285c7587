# Two images from one file: `--target services` (the bridge; the command names the service) and
# `--target sap_mock` (for environments without a SAP). Build with BuildKit.
#
# The base is named by its digest, the same as in cloudbuild.yaml, where it says how to renew it.
ARG PYTHON=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/bridge
COPY requirements.txt ./
RUN /opt/bridge/bin/pip install --require-hashes --only-binary :all: -r requirements.txt

FROM build AS build-services
COPY bridge bridge
COPY gateway gateway
COPY dispatcher dispatcher
COPY sap_adapter sap_adapter
COPY webhooks webhooks
COPY partners partners
COPY backoffice backoffice
COPY cli cli
RUN cp -r bridge gateway dispatcher sap_adapter webhooks partners backoffice cli \
    "$(/opt/bridge/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

FROM build AS build-sap-mock
COPY sap_mock sap_mock
RUN cp -r sap_mock \
    "$(/opt/bridge/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

FROM ${PYTHON} AS base
ENV PATH=/opt/bridge/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin bridge
WORKDIR /tmp
USER 10001
# exec form: the service itself gets SIGTERM
ENTRYPOINT ["python", "-m"]

FROM base AS sap_mock
COPY --from=build-sap-mock /opt/bridge /opt/bridge
ENV SAP_MOCK_DATA=/tmp/sap_mock.sqlite
CMD ["sap_mock"]

FROM base AS services
COPY --from=build-services /opt/bridge /opt/bridge
# one of: gateway dispatcher dispatcher.dead_letters sap_adapter webhooks partners backoffice, or for a job
# bridge.storage.migrate, bridge.storage.erase, sap_adapter.recover, cli.main
CMD ["gateway"]
