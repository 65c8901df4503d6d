"""How report.html is made: what it shows, its clips, its page, and where it is kept."""
