"""HTML to text: what a reader sees, in lines; and no page takes it down."""

from __future__ import annotations

import time

import pytest

from pibot.skills._readable import Link, Page, read


def page(html: str) -> Page:
    return read(html, lambda: None, "http://a.test/d/index.html")


def test_a_whole_page() -> None:
    html = """<!DOCTYPE html><html><head><title> My
      Pi &amp; me </title><style>p {color: red}</style><script>alert("<p>no</p>")</script></head>
    <body><nav><ul><li><a href="/">Home</a></li></ul></nav>
    <h1>Cooling</h1><p>A <b>fan</b> is <a href="x?a=1&amp;b#c"> cheap </a>,<br>and quiet.</p>
    <h2>Parts</h2><ul><li>a fan<ol start="3"><li>blades<li>motor</ol><li><p>a case</p></li></ul>
    <blockquote><p>Quiet!</p><p>Truly</p></blockquote>
    <table><tr><th>part</th><th>price</th></tr><tr><td>fan</td><td> 5&nbsp;€ </td></tr></table>
    <!-- hidden --><noscript>no</noscript><svg><title>no</title></svg>
    <pre>if hot:
      fan.on()</pre><p>The end</body></html>"""
    assert page(html) == Page(
        "My Pi & me",
        "# Cooling\n\nA fan is [cheap](http://a.test/d/x?a=1&b) ,\nand quiet.\n\n## Parts\n\n"
        "- a fan\n  3. blades\n  4. motor\n- a case\n\n> Quiet!\n>\n> Truly\n\n"
        "| part | price |\n| --- | --- |\n| fan | 5 € |\n\n"
        "```\nif hot:\n      fan.on()\n```\n\nThe end",
        (Link("cheap", "http://a.test/d/x?a=1&b"),),
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
        ("<main>" + "long " * 50 + "</main><p>aside", "long " * 49 + "long"),
        ("<p>a<main>short</main><p>b", "a\nshort\n\nb"),
        ("a <code>x = 1</code> b <code></code>", "a `x = 1` b"),
        ("<pre><code class='language-py'>a\n\n\nb</code></pre>", "```py\na\n\n\nb\n```"),
        ("<pre>a\n```\nb</pre>c", "````\na\n```\nb\n````\n\nc"),
        ("<pre>never closed", "```\nnever closed\n```"),
        ("<h1>a<br>b</h1>c", "# a b\n\nc"),
        ("<ol><li>a<li>b</ol><ol><li>c</ol>", "1. a\n2. b\n\n1. c"),
        ("<ul><li>a<p>b</p></ul>c", "- a\n  b\n\nc"),
        # Links.
        ("<a href='//b.test/x y'>b</a>", "[b](http://b.test/x%20y)"),
        ("<a href='#here'>b</a> <a href='javascript:x()'>c</a> <a href='http://['>d</a>", "b c d"),
        ("<a href='mailto:a@b.c'>m</a> <a>n</a> <a href=''>o</a>", "m n o"),
        ("<a href='/a(1)'>[1]</a>", "[\\[1\\]](http://a.test/a%281%29)"),
        ("<a href=/x><img alt=logo></a> <a href=/y><img></a>.", "[logo](http://a.test/x) ."),
        ("<a href=/x><h2>Head</h2><p>Text</p></a>", "## [Head](http://a.test/x)\n\nText"),
        ("<a href=/x>a <a href=/y>b</a>", "[a](http://a.test/x) [b](http://a.test/y)"),
        ("<base href='http://c.test/d/'><a href=x>a</a>", "[a](http://c.test/d/x)"),
        # Tables.
        ("<table><tr><td>a|b<td>c<tr><td>d</table>e", "| a\\|b | c |\n| --- | --- |\n| d |\n\ne"),
        ("<table><tr><td>a<td>b</table>", "a | b"),
        ("<table><tr><td>a<tr><td>b</table>", "a\nb"),
        (
            "<table><tr><td><p>a<p>b<ul><li>c</ul><td>d<tr><td>e<td>f",
            "| a b c | d |\n| --- | --- |\n| e | f |",
        ),
        (
            "<table><tr><td>out<table><tr><td>a<td>b<tr><td>c<td>d</table>x</table>y",
            "out\n\n| a | b |\n| --- | --- |\n| c | d |\n\nx\ny",
        ),
        # What people do not see.
        ("a<div hidden>no<div>no</div>no</div>b", "ab"),
        ("a<span style='color:red; display : NONE'>no</span>b", "ab"),
        ("a<span aria-hidden=true>no</span><div role=navigation>no</div>b", "ab"),
        ("<p hidden>a<p>b", "a\n\nb"),
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
