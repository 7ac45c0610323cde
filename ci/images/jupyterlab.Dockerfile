# A user server with a real JupyterLab and Notebook, for the local cluster only. ci/images/build makes the base and the context.
FROM localhost/debian-jupyterhub
RUN useradd --uid 1000 --create-home --shell /bin/bash jovyan
COPY jupyter.lock /tmp/
# Elsewhere than Python's own prefix, as in the images of repo2docker.
RUN python3 -m venv /srv/jupyter \
 && /srv/jupyter/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/jupyter.lock \
 && rm /tmp/jupyter.lock
COPY probe /usr/local/bin/
ENV PATH=/srv/jupyter/bin:$PATH HOME=/home/jovyan
USER 1000:1000
WORKDIR /home/jovyan
CMD ["jupyter-server"]
