#!/usr/bin/env python3
"""Writes names_*.h5: images of three classes, whose names are stored as h5py stores what its users give it."""
import h5py
import numpy as np

three = ["cat", "dög", "bird"]
ascii = [b"cat", b"dog", b"bird"]


def write(kind, names):
    with h5py.File(f"names_{kind}.h5", "w") as f:
        for part in ("train", "test"):
            f[f"{part}_images"] = np.arange(12, dtype="u1").reshape(6, 1, 2)
            f[f"{part}_labels"] = np.arange(6, dtype="u1") % 3
        names(f)


def put(value, **keywords):
    return lambda f: f.create_dataset("class_names", data=value, **keywords)


def attribute(value):
    return lambda f: f.attrs.__setitem__("class_names", value)


write("variable", put(three))
write("fixed", put(np.array(ascii)))
write("objects", put(np.array(three, dtype=object), dtype=h5py.string_dtype()))
write("utf8", put(np.array([n.encode() for n in three], dtype=h5py.string_dtype("utf-8", 8))))
write("attribute", attribute(three))
write("attribute_fixed", attribute(np.array(ascii)))
write("four", put(three + ["fish"]))
write("numbers", put(np.arange(3)))
write("table", attribute([[n] for n in three]))
write("lines", put(["cat", "dog\nbird", "fish"]))
write("group", lambda f: f.create_group("class_names"))
