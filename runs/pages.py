"""Puts tables between the marks of a page."""


def paste(path, lines):
    """Replaces what is between the marks of the page at `path` by `lines`."""
    text = path.read_text()
    begin, end = "<!-- tables: begin -->\n", "<!-- tables: end -->"
    before, rest = text.split(begin)
    path.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end)[1])
