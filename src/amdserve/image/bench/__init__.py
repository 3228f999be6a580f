"""`invoke bench`: `amdserve bench` in an image on this host; its result as table, page and plot."""
