"""How fast, how even, how large: `python -m tests.bench`, measured against a bare aiohttp handler in the same run.

=============  ====================================================================================
``__main__``   the options, the order of the measures, the table at the end
``measures``   one function per promise: what is run, what is compared, what was promised
``load``       the load generator: pre-built requests, one small protocol per connection
``subject``    starts the real daemon on core 0, with what only a benchmark may put into it
``ingest``     makes a report of a million lines, for the vendor's command to take in
``alone``      a command from its start to its end, with its peak of memory
``bare``       the yardstick: aiohttp, uvloop, no access log, the same sizes in and out
``machine``    cores, processor time, memory, and processes that are sure to end
=============  ====================================================================================

Rules
1. The daemon and the yardstick have core 0, one of them under load at a time; the generator has core 1. Loopback only.
2. Subject and yardstick take turns within each run, so that a neighbour's noise meets both. Medians of at least five.
3. Every answer is counted by its status; an unexpected one makes a measure miss, however fast it was.
4. The processor time of both sides is printed: a generator near 100 % measures itself.
5. What is put into the daemon (a signer that does not sign, a slow or stalling disk, groups of one) is put in by
   ``subject`` and is no mode of the product.

It is a report and no test: the exit status is 0 whatever is reached, and 1 only when something did not run at all.
"""
