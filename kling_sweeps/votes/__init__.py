"""How people vote on videos: which pairs they get, the page they see, and what becomes of their votes."""
