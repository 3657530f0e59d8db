"""Build the site of docs/: `python docs/site/build.py` writes build/docs/index.html; a warning is an error.

Sphinx rather than MkDocs: MkDocs has had no release since 2024, its theme Material loads fonts from another server by
default, and the successor of both is young. Sphinx is maintained, writes a site that works without a server, and
checks every reference between pages.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDER = ROOT / "build"
REFERENCE = "Reference"
RESULTS = {
    "time_to_fid_grey": "MNIST: FID after 20 minutes",
    "time_to_fid_colour": "CIFAR-10: FID after 38 minutes",
    "time_to_fid": "MNIST: FID after 10 minutes, beside other libraries",
    "time_to_fid_colour_peers": "CIFAR-10: FID after 38 minutes, beside other libraries",
    "few": "Few pictures: FID after 8 minutes",
    "training": "Speed of training",
    "training_native": "Speed of training, with normalisation in C++",
    "sampling": "Speed of sampling at equal FID",
    "samplers": "Samplers: FID against network evaluations",
    "preparation": "Speed of preparing images",
    "methods": "Digits: diffusion, VAE and GAN after equal time",
    "methods_mnist": "MNIST: diffusion, VAE and GAN after equal time",
    "words": "Captions: what a model draws of pairs it never saw",
    "conditioned_pictures": "Restoring pictures with a model that was trained for it",
    "cascade": "A cascade beside one model",
    "latents": "Pixels and latents of 64x64 images",
    "words_mnist": "Captions: pairs of MNIST's digits that it never saw",
    "words_tiles": "Captions: pictures that are found by their captions",
    "coverage": "Coverage of the intervals",
    "serving_load": "The served champion under load",
    "gate": "How often the gate promotes",
    "faults": "What faults cost",
}
"""Titles of the pages of measured results in the navigation, because some of the pages have equal headings."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)")


def navigation() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the sections of docs/index.md, each with its links as (title, file)."""
    sections = re.split(r"^## ", (DOCS / "index.md").read_text(), flags=re.MULTILINE)[1:]
    return [(section.partition("\n")[0], LINK.findall(section)) for section in sections]


def outside() -> dict[str, str]:
    """Return the pages outside docs/ that belong to the site: the link in docs/ and the name in the site."""
    return {
        "../README.md": "readme.md",
        "../CONTRIBUTING.md": "contributing.md",
        "../CHANGELOG.md": "changelog.md",
        **{f"../benchmarks/results/{name}.md": f"results/{name}.md" for name in RESULTS},
    }


def stage(source: Path) -> None:
    """Write what Sphinx reads into an empty folder: pages, pictures, and the reference, which is made of the code."""
    from reference import command_line, params

    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("site", "__pycache__"))
    names = outside()
    for link, name in names.items():
        target = source / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(_seen_from_docs((DOCS / link).read_text()) if "/" not in name else (DOCS / link).read_text())
    (source / "reference").mkdir()
    (source / "reference" / "command-line.md").write_text(command_line())
    (source / "reference" / "params.md").write_text(params(ROOT))
    for page in source.glob("*.md"):
        page.write_text(_with_links_of_the_site(page.read_text(), names))
    index = source / "index.md"
    index.write_text(index.read_text() + _trees(names))


def _seen_from_docs(text: str) -> str:
    """Return a page of the project's folder with the links that it would have in docs/."""
    return re.sub(r"\]\((?!https?:|#)(docs/)?", lambda found: "](" if found[1] else "](../", text)


def _with_links_of_the_site(text: str, names: dict[str, str]) -> str:
    """Links to pages outside docs/ lead to their copies; a link to another file of the project becomes its name."""
    for link, name in names.items():
        text = text.replace(f"]({link}", f"]({name}")
    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", text)


def _trees(names: dict[str, str]) -> str:
    """Return Sphinx's navigation in the order of docs/index.md, then the reference and the measured results."""
    results = [(title, f"results/{name}.md") for name, title in RESULTS.items()]
    reference = [("", "reference/command-line.md"), ("", "reference/params.md")]
    listed = "\n".join(f"- [{title}]({file})" for title, file in (
        ("Every command and option", "reference/command-line.md"),
        ("Every key of params.yaml", "reference/params.md"),
    ))  # fmt: skip
    sections = [*navigation(), (REFERENCE, reference), ("Measured results", results)]
    trees = "\n".join(
        "\n".join(
            [f"```{{toctree}}\n:hidden:\n:caption: {title}\n", *(_entry(*link, names) for link in links), "```\n"]
        )
        for title, links in sections
    )
    return f"\n## {REFERENCE}\n\n{listed}\n\n{trees}"


def _entry(title: str, file: str, names: dict[str, str]) -> str:
    name = names.get(file, file)
    return f"{title} <{name}>" if title else name


def main() -> int:
    from sphinx.cmd.build import build_main

    source, target = FOLDER / "docs-source", FOLDER / "docs"
    for folder in (source, target):
        shutil.rmtree(folder, ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    stage(source)
    failed = build_main(["-b", "html", "-W", "--keep-going", "-q", "-c", str(DOCS / "site"), str(source), str(target)])
    if not failed:
        print(f"open {target.relative_to(ROOT)}/index.html")
    return failed


if __name__ == "__main__":
    sys.exit(main())
