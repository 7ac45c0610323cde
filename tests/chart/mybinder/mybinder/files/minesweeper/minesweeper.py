import socket

hostname = socket.gethostname()

default_config = {
    "pod_selectors": {
        "label_selector": "component=singleuser-server",
        "field_selector": f"spec.nodeName={hostname}",
    },
}
