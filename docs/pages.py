"""What mkdocs.yml cannot say: the navigation, pages from outside docs/, and the API's pages.

docs/index.md is the one list of guides: the navigation is made from it. Links between pages lead to
the site's pages; links to other files of the repository become plain text.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
OUTSIDE = {  # page of the site -> where it stands
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "security.md": ROOT / "SECURITY.md",
    "changes.md": ROOT / "CHANGELOG.md",
    "results.md": ROOT / "experiments" / "README.md",
    "benchmarks.md": ROOT / "experiments" / "benchmarks" / "README.md",
    "dpsgd.svg": ROOT / "experiments" / "benchmarks" / "dpsgd.svg",
}
API = {  # what others may build on, by subject
    "configuration": ["fedmed.config.settings", "fedmed.config.tables", "fedmed.config.arms"],
    "accounting": [
        "fedmed.privacy.accounting",
        "fedmed.privacy.accounting.solve",
        "fedmed.privacy.mechanisms.step",
    ],
    "gradients": ["fedmed.privacy.gradients", "fedmed.privacy.gradients.engine"],
    "plans": ["fedmed.privacy.plans", "fedmed.privacy.plans.making"],
    "ledger": ["fedmed.privacy.ledger.ledger", "fedmed.privacy.ledger.policy"],
    "evaluation": [
        "fedmed.evaluation.discrimination",
        "fedmed.evaluation.calibration",
        "fedmed.evaluation.fairness",
        "fedmed.evaluation.measuring.measures",
        "fedmed.evaluation.comparison.compare",
    ],
    "data": ["fedmed.data.cohort", "fedmed.data.shard"],
    "experiments": ["fedmed.experiment.file", "fedmed.launch"],
}
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):(?=<code>)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation from docs/index.md."""
    nav: list[Any] = [{"fedmed": "index.md"}]
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    seen = {"index.md"}
    for part in text.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        pages = []
        for words, target in LINK.findall(body):
            page = page_of((DOCS / target).resolve())
            if page and page not in seen:
                pages.append({words: page})
                seen.add(page)
        nav.append({title: pages})
    nav.append({"API": [{name.capitalize(): f"api-{name}.md"} for name in API]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in what stands outside docs/, and one page for each part of the API."""
    for name, path in OUTSIDE.items():
        files.append(File.generated(config, name, content=path.read_bytes()))
    for name, modules in API.items():
        text = "\n\n".join([f"# {name.capitalize()}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, f"api-{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let every link lead to a page of the site, or be plain text."""
    source = OUTSIDE.get(page.file.src_uri, DOCS / page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        where, sign, anchor = target.partition("#")
        if not where or "://" in target:
            return match[0]
        path = (source.parent / where).resolve()
        address = page_of(path)
        return f"[{words}]({address}{sign}{anchor})" if address else words

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name what they refer to with a role, of which the site shows the name."""
    return ROLE.sub("", html)


def page_of(path: Path) -> str:
    """The site's page of a file; empty where it has none."""
    names = [name for name, outside in OUTSIDE.items() if outside == path]
    if names:
        return names[0]
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else ""
