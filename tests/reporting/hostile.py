"""Text that breaks out of a page that does not escape it."""

HOSTILE = (
    "<script>alert(1)</script>",
    "a | b",
    "`code` and ``more``",
    "line\nbreak\r\n\n# heading",
    "**bold** _em_ ~~gone~~ __x__",
    "![img](http://evil.example/x.png) [a](javascript:alert(1))",
    "<!-- open",
    "&lt;b&gt; &amp;",
    "1. one",
    "- item",
    "> quote",
    "\\| \\` \\<",
    "see http://evil.example or www.evil.example or a@evil.example",
    "\"quotes\" and 'single'",
    "zero\u200bwidth \u202eright to left",
    ":smile: $x$ {y} ^z^ ==m==",
    "---",
)
