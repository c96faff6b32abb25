"""The demo corpus is real, large enough anywhere and always the same; synthetic documents are unique."""

import pytest

from batch.local import corpus
from batch.local.corpus import demo_documents
from benchmarks.synthetic import synthetic_documents


def test_demo_documents_are_many_different_and_stable() -> None:
    documents = list(demo_documents())
    assert len(documents) >= 80
    assert documents == list(demo_documents())
    keys = [key for key, _ in documents]
    assert len(set(keys)) == len(keys)
    assert len({content for _, content in documents}) == len(documents)
    assert {key.rsplit(".", 1)[1] for key in keys} == {"md", "txt"}
    assert not any("docbatch" in key for key in keys)
    sizes = sorted(len(content) for _, content in documents)
    assert sizes[0] < 1_000 and sizes[-1] > 20_000
    for _, content in documents:
        assert content.decode().strip()


def test_demo_documents_are_readmes() -> None:
    documents = dict(demo_documents())
    assert b"pytest" in documents["readmes/pytest.txt"]
    assert documents["readmes/typer.md"].startswith(b"<")


def test_few_distributions_are_filled_up_from_licenses_and_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [(name, found) for name, found in corpus._installed_distributions() if name in ("pytest", "typer")]
    monkeypatch.setattr(corpus, "_installed_distributions", lambda: two)
    keys = [key for key, _ in demo_documents()]
    assert keys[:2] == ["readmes/pytest.txt", "readmes/typer.md"]
    assert keys[2].startswith("licenses/pytest-")
    assert "docstrings/argparse.txt" in keys
    assert len(keys) >= 80


def test_synthetic_documents() -> None:
    documents = list(synthetic_documents(2_000, 2_048, seed=3))
    assert documents == list(synthetic_documents(2_000, 2_048, seed=3))
    assert len({key for key, _ in documents}) == len({content for _, content in documents}) == 2_000
    assert {len(content) for _, content in documents} == {2_048}
    assert documents[0][1].isascii()
    assert documents[0][0] == "documents/00000000.txt"
    assert documents[0][1] != next(synthetic_documents(1, 2_048, seed=4))[1]
    assert {len(content) for _, content in synthetic_documents(3, 100_000)} == {100_000}
