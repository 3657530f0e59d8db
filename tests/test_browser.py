"""The browser of the tests: a page's errors and its requests to other machines are seen, and not sent."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import visited

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.slow
def test_errors_and_requests_to_other_machines_are_noticed(browser: "Browser", tmp_path: Path) -> None:
    file = tmp_path / "a page.html"
    file.write_text('<h1>A page</h1><img src="https://example.invalid/x.png"><script>throw new Error("lost")</script>')
    with visited(browser, file.as_uri(), width=400, height=800) as visit:
        assert visit.page.get_by_role("heading").inner_text() == "A page"
        assert visit.page.evaluate("[innerWidth, innerHeight]") == [400, 800]
    assert visit.outside == ["https://example.invalid/x.png"]
    assert any("lost" in complaint for complaint in visit.complaints)
