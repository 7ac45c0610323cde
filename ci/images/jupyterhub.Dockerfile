# JupyterHub, its proxy and a user server, for the local cluster only. ci/images/build makes the base and the context.
FROM localhost/debian-jupyterhub
RUN useradd --uid 1000 --create-home --shell /bin/bash jovyan
COPY jupyterhub.lock /tmp/
# jsonschema does without rfc3987-syntax, which parses a grammar whenever it is imported: that is most of the processor time of a
# server's start.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/jupyterhub.lock \
 && /opt/venv/bin/pip uninstall --yes rfc3987-syntax \
 && rm /tmp/jupyterhub.lock
COPY node_modules /opt/proxy/node_modules
RUN ln -s /opt/proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy /usr/local/bin/
COPY probe /usr/local/bin/
# BinderHub's package where the machine has one, an empty folder otherwise.
COPY binderhub /opt/venv/lib/python3.11/site-packages/
ENV PATH=/opt/venv/bin:$PATH HOME=/home/jovyan
USER 1000:1000
WORKDIR /home/jovyan
CMD ["jupyterhub-singleuser"]
