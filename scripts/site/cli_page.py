"""The reference page of the command line, from its parser."""

from __future__ import annotations

import argparse

from docstrings import cell
from fourstroke import cli


def page() -> str:
    """Every command with its arguments and options."""
    parser = cli._parser(["eval"])
    text = ["# Command line", "", "Progress goes to standard error, what was made to standard output. Errors of the"]
    text += ["user's making are one line and exit code 2; an interrupt is 130.", "", *_table(parser)]
    for names, command, help_text in _commands(parser):
        text += [f"## `{names}`", "", (help_text[:1].upper() + help_text[1:]) + ".", ""]
        text += ["```text", _usage(command), "```", "", *_table(command)]
    return "\n".join(text)


def _commands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser, str]]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                if inner := _commands(command):
                    found += inner
                else:
                    found.append((command.prog, command, helps.get(name, command.description or "")))
    return found


def _usage(command: argparse.ArgumentParser) -> str:
    """A command with what it needs; options are in its table."""
    words = [command.prog, "[options]"]
    for action in command._actions:
        name = str(action.metavar or action.dest)
        if action.option_strings and action.required:
            words += [action.option_strings[0], name.upper()]
        elif not action.option_strings:
            words.append({"+": f"{name} …", "*": f"[{name} …]"}.get(str(action.nargs), name))
    return " ".join(words)


def _table(parser: argparse.ArgumentParser) -> list[str]:
    rows = ["| argument | meaning |", "|---|---|"]
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        name = " / ".join(action.option_strings) or str(action.metavar or action.dest)
        if action.option_strings and action.nargs != 0:
            shown = action.metavar or (None if action.choices else action.dest.upper())
            name = f"{name} {shown}" if shown else name
        said = (action.help or "").replace("%(default)s", str(action.default))
        if action.choices:
            said += f"{'; ' if said else ''}one of {', '.join(f'`{choice}`' for choice in action.choices)}"
        if action.default not in (None, False, argparse.SUPPRESS, []) and "default" not in said:
            said += f" (default: {action.default})"
        if action.required and action.option_strings:
            said += " **Required.**"
        rows.append(f"| `{name}` | {cell(said)} |")
    return [*rows, ""]
