"""A pull request with bans, in a private repository.

Decisions: D-284.
"""

import os

import click
import requests
from github import Auth, BadAttributeException, Consts, Github, GithubException, InputGitTreeElement
from github.ContentFile import ContentFile
from github.Repository import Repository

from .values_file import ProposalRefused, decoded, with_bans

BRANCH, TITLE = "propose-bans", "Proposed bans"
"""Fixed, so that there is only one pull request: a later run replaces an earlier proposal."""

TIMEOUT_SECONDS = 30
RETRIES = 2


def propose(name: str, path: str, where: str, specs: dict[str, list[str]], networks: dict[str, str], body: str) -> str:
    """Open a pull request that adds bans to a values file, or update the open one. The default branch stays as it is.

    Args:
        name: the repository, `owner/name`.
        path: the path of the values file in it.
        where, specs, networks: see `with_bans`.
        body: the text of the pull request, Markdown.

    Returns:
        A sentence on what was done.

    Raises:
        ProposalRefused: the repository is public, the forge refuses or does not answer, or the file cannot be changed.
        click.UsageError: there is no token.
    """
    token = os.environ.get("GITHUB_TOKEN")
    if not token:
        raise click.UsageError("--pull-request needs a token in the environment variable GITHUB_TOKEN.")
    address = os.environ.get("GITHUB_API_URL", Consts.DEFAULT_BASE_URL)
    forge = Github(auth=Auth.Token(token), base_url=address, timeout=TIMEOUT_SECONDS, retry=RETRIES)
    try:
        return _propose(forge.get_repo(name), path, where, specs, networks, body)
    except BadAttributeException as error:
        raise ProposalRefused(f"The forge answered about {name} with something else than GitHub does.") from error
    except GithubException as error:
        said = error.data.get("message", "") if isinstance(error.data, dict) else ""
        raise ProposalRefused(f"The forge refused {name}: {error.status} {said[:100]!a}.") from error
    except requests.RequestException as error:
        raise ProposalRefused(f"The forge does not answer: {type(error).__name__}.") from error
    finally:
        forge.close()


def _propose(
    repository: Repository, path: str, where: str, specs: dict[str, list[str]], networks: dict[str, str], body: str
) -> str:
    if repository.private is not True:
        raise ProposalRefused(
            f"{repository.full_name} is public. A list of bans tells those on it what to change, so none is written there."
        )
    default = repository.default_branch
    found = repository.get_contents(path, ref=default)
    if not isinstance(found, ContentFile) or found.encoding != "base64":
        raise ProposalRefused(f"{path} is not a file of at most 1 MB in {repository.full_name}.")
    before = decoded(found.decoded_content)
    after = with_bans(before, where, specs, networks)
    if after == before:
        return f"Nothing is missing in {path}; no pull request is needed."
    base = repository.get_git_commit(repository.get_branch(default).commit.sha)
    # The commit is made first, and the branch is then moved onto it in one step: a branch without changes closes its pull request.
    tree = repository.create_git_tree([InputGitTreeElement(path, "100644", "blob", content=after)], base.tree)
    try:
        branch = repository.get_git_commit(repository.get_branch(BRANCH).commit.sha)
    except GithubException as error:
        if error.status != 404:
            raise
        branch = None
    if branch is None or branch.tree.sha != tree.sha or [one.sha for one in branch.parents] != [base.sha]:
        commit = repository.create_git_commit(TITLE, tree, [base])
        if branch is None:
            repository.create_git_ref(f"refs/heads/{BRANCH}", commit.sha)
        else:
            repository.get_git_ref(f"heads/{BRANCH}").edit(commit.sha, force=True)
    for request in repository.get_pulls(state="open", head=f"{repository.owner.login}:{BRANCH}", base=default):
        if (request.title, request.body) == (TITLE, body):
            return f"Pull request {request.number} is up to date."
        request.edit(title=TITLE, body=body)
        return f"Pull request {request.number} is brought up to date."
    request = repository.create_pull(base=default, head=BRANCH, title=TITLE, body=body)
    return f"Pull request {request.number} is opened."
