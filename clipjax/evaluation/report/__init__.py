"""What a reader gets: report.json (record.py) and one self-contained page (page.py, page.html)."""
