"""The wire: frames, links and channels over `tcp`, `unix` and `mem`."""
