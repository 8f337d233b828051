"""The conformance kit and its fakes, for authors of plugins and for labs."""
