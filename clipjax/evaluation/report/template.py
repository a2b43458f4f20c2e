"""The pages' templates: files of this folder, filled in with everything escaped."""

from pathlib import Path


def template(name: str, **filters):
    """The jinja2 template of this name, which knows these filters; what it lacks when rendered is an error."""
    import jinja2

    room = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    room.filters |= filters
    return room.get_template(name)
