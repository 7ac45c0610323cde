#!/usr/bin/env python3
"""Make an OCI image tarball of one uncompressed layer from a directory.

mkimage.py NAME ROOTFS OUT.tar [--cmd ARG…]
For the cluster's own images; they need no container engine, and the same files give the same digest.
"""

import argparse
import hashlib
import io
import json
import tarfile


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("name"), p.add_argument("rootfs"), p.add_argument("out")
    p.add_argument("--cmd", nargs=argparse.REMAINDER, default=[])
    a = p.parse_args()

    def clean(t):  # the same files give the same bytes
        t.uid = t.gid = 0
        t.uname = t.gname = ""
        t.mtime = 0
        return t

    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w", format=tarfile.PAX_FORMAT) as t:
        t.add(a.rootfs, arcname=".", filter=clean)
    layer = buf.getvalue()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/sbin"], "Cmd": a.cmd},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()
    oci = "application/vnd.oci.image."
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": oci + "manifest.v1+json",
            "config": {"mediaType": oci + "config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": oci + "layer.v1.tar", "digest": digest(layer), "size": len(layer)}],
        }
    ).encode()
    index = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": oci + "manifest.v1+json",
                    "digest": digest(manifest),
                    "size": len(manifest),
                    # containerd names the imported image after this annotation
                    "annotations": {"io.containerd.image.name": a.name},
                }
            ],
        }
    ).encode()
    with tarfile.open(a.out, "w") as t:

        def put(path, data):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))

        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put("index.json", index)
        for blob in (layer, config, manifest):
            put("blobs/" + digest(blob).replace(":", "/"), blob)


main()
