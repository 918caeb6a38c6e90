"""HTML to text: what a reader sees, in lines; and no page takes it down."""

from __future__ import annotations

import time

import pytest

from pibot.skills._readable import Page, read


def page(html: str) -> Page:
    return read(html, lambda: None)


def test_a_whole_page() -> None:
    html = """<!DOCTYPE html><html><head><title> My
      Pi &amp; me </title><style>p {color: red}</style><script>alert("<p>no</p>")</script></head>
    <body><nav><ul><li><a href="/">Home</a></li></ul></nav>
    <h1>Cooling</h1><p>A <b>fan</b> is <a href="x">cheap</a>,<br>and quiet.</p>
    <h2>Parts</h2><ul><li>a fan<li><p>a case</p></li></ul>
    <table><tr><th>part</th><th>price</th></tr><tr><td>fan</td><td> 5&nbsp;€ </td></tr></table>
    <!-- hidden --><noscript>no</noscript><svg><title>no</title></svg>
    <pre>if hot:
      fan.on()</pre><p>The end</body></html>"""
    assert page(html) == Page(
        "My Pi & me",
        "# Cooling\n\nA fan is cheap,\nand quiet.\n\n## Parts\n\n- a fan\n- a case\n\n"
        "part | price\nfan | 5 €\n\nif hot:\n      fan.on()\n\nThe end",
    )


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a & b", "a & b"),
        ("fish &amp; chips &", "fish & chips &"),
        ("a<br/>b", "a\nb"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("a <em>b</em>c", "a bc"),
        ("<nav>menu<p>never closed<main>text</main>", "text"),
        ("<nav><nav>a</nav>b</nav>c", "c"),
        ("<svg/>seen", "seen"),
        ("<p>a<![CDATA[x]]>b", "ab"),
        ("<p>a<![foo[x]]>b", "ab"),
        ("<p>a<!-- never closed", "a"),
        ("<p>a<b never closed", "a"),
        ("x\x00\x1b[31my\x9b", "x[31my"),
        ("a&#" + "9" * 5000 + ";b&#0065;", "a\ufffd;bA"),
        ("<td></td><td>a</td>", "a"),
        ("<ul><li></li><li>b</ul>", "- b"),
        ("<img src='data:image/png;base64," + "A" * 200_000 + "'>after", "after"),
        ("<script>" + "a" * 200_000 + "</script>after", "after"),
        ("<p>" + "word " * 10_000, "word " * 9_999 + "word"),
    ],
)
def test_text(html: str, text: str) -> None:
    assert page(html).text == text


@pytest.mark.parametrize("head", ["", "<a", "<script>", "<!--"])
@pytest.mark.parametrize("unit", ["<a ", "<", "</", "<!", "<a a='", "<a a=", "<b>", "<![", "&#"])
def test_hostile_pages_let_go_soon(head: str, unit: str) -> None:
    """No piece of work between two looks at the clock grows with the page."""
    looks = [time.perf_counter()]
    read((head + unit * 400_000)[:400_000], lambda: looks.append(time.perf_counter()))
    looks.append(time.perf_counter())
    assert max(after - before for before, after in zip(looks, looks[1:])) < 0.5


def test_stops_when_the_time_is_over() -> None:
    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        read("<p>text", check)
