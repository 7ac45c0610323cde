"""BinderHub's configuration, for the real BinderHub and for the stand-in. It ends like the configuration in BinderHub's chart."""

import os
import sys
from urllib.parse import urlsplit

import yaml

c = get_config()  # noqa: F821

with open("/etc/binderhub/config/values.yaml") as file:
    values = yaml.safe_load(file)

try:
    if os.environ["BINDER_KIND"] == "standin":
        raise ImportError
    import binderhub.builder
    from binderhub.build import FakeBuild
    from binderhub.registry import FakeRegistry
    from binderhub.repoproviders import RepoProvider
except ImportError:
    from standin import RepoProvider

    c.BinderHub.build_seconds = 0 if values["cached"] else 2
else:

    class Registry(FakeRegistry):
        """A registry that has every image, or none."""

        async def get_image_manifest(self, image, tag):
            """The manifest of an image, if the image exists."""
            return {"image": image} if values["cached"] else None

    c.BinderHub.registry_class = Registry
    c.BinderHub.build_class = FakeBuild
    c.BinderHub.builder_required = False
    # By default, ten launches an hour from one address, for clients without a build token.
    c.RateLimiter.limit = 0
    # Without this, each repository has its own image name, and each image would have to be put on the node.
    binderhub.builder._safe_build_slug = lambda slug, *args, **kwargs: slug


class Example(RepoProvider):
    """fake/<owner>/<name>/<ref>, or gh/…: any repository exists; the ref `other-image` has another image than all others."""

    def _part(self, number):
        return [*self.spec.split("/"), "", ""][number]

    async def get_resolved_ref(self):
        """The image's tag."""
        return "2" if self._part(2) == "other-image" else "1"

    async def get_resolved_spec(self):
        """Refs never move."""
        return self.spec

    def get_repo_url(self):
        """The address that the repository would have."""
        return f"https://example.com/{self._part(0)}/{self._part(1)}.git"

    async def get_resolved_ref_url(self):
        """The address that the ref would have."""
        return f"https://example.com/{self._part(0)}/{self._part(1)}/tree/{self._part(2)}"

    def get_build_slug(self):
        """The image's name."""
        return "user-server"


def provider(prefix):
    """The provider under its prefix, with the texts of the real BinderHub's pages."""
    shown = {
        "displayName": prefix,
        "id": prefix,
        "spec": {"validateRegex": ".+"},
        "repo": {"label": "Repository", "placeholder": "owner/name/ref"},
        "ref": {"enabled": False},
    }
    return type(prefix, (Example,), {"display_config": shown})


# Clients that know only GitHub find it, too.
c.BinderHub.repo_providers = {prefix: provider(prefix) for prefix in ("fake", "gh")}
c.BinderHub.hub_api_token = os.environ["JUPYTERHUB_API_TOKEN"]

for section, settings in values["config"].items():
    c[section].update(settings)

if values["config"]["BinderHub"].get("auth_enabled"):
    hub_url = urlsplit(c.BinderHub.hub_url)
    c.HubOAuth.hub_host = f"{hub_url.scheme}://{hub_url.netloc}"
    c.HubOAuth.base_url = c.BinderHub.base_url

for key, snippet in sorted((values["extraConfig"] or {}).items()):
    print(f"Loading extra config: {key}", file=sys.stderr)
    exec(snippet)
