"""What a request costs, here and elsewhere: `python -m benchmarks --help`, docs/performance.md.

`cases` says what is asked, `peers` how each competitor is started, `gateway` how we are, `upstream` what lies
behind all of them; `load` asks, `measure` reads /proc, `rounds` takes turns, `report` divides. Linux only, for /proc.
"""
