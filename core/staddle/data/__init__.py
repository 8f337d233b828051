"""The data path: chunks, containers, manifests and the other formats that lie on media."""
