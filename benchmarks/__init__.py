"""What a request costs, here and elsewhere: `python -m benchmarks --help`, docs/performance.md.

`cases` says what is asked, `peers` and `pythons` how each competitor is started, `gateway` how we are, `upstream` what
lies behind all of them. `load` asks as fast as it is answered, `openloop` at a constant rate, `bulk` for gigabytes;
`measure` reads /proc, `trial` measures one contender, `rounds` takes turns, `report` divides. Linux only, for /proc.
"""
