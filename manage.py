#!/usr/bin/env python
"""HydraGate's command line: `python manage.py up` starts everything, `python manage.py help` lists the rest."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    try:
        execute_from_command_line(sys.argv)
    except OperationalError as error:  # any command, with the database away: a sentence, not a trace
        sys.exit(f"PostgreSQL cannot be used: {str(error).strip()}")


if __name__ == "__main__":
    main()
