"""The architecture `crawl`: `plan.py` is what the master knows of it, all else is the runner's.

`work.py` is what a runner calls, `fetch.py` and `links.py` are its two kinds of task, `frontier.py` says what is
fetched next and when, `knowledge.py` what one round tells the next; `web.py` asks servers, `archive.py` keeps their
answers; `urls.py`, `robots.py`, `page.py` and `alarm.py` are what these need.
"""
