"""Files: atomic writing, folder locks, strict JSON, bundled folders."""
