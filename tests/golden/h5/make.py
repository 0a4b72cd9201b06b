#!/usr/bin/env python3
"""Writes foreign.h5: one object of each kind that data/h5.h does not accept, and two that it does."""
import h5py
import numpy as np

values = np.arange(6, dtype="<f4").reshape(2, 3)
with h5py.File("foreign.h5", "w") as f:
    f.create_dataset("group/good", data=values)
    f.create_dataset("chunked", data=values, chunks=(1, 3), compression="gzip", shuffle=True, fletcher32=True)
    f["soft"] = h5py.SoftLink("/group/good")
    f["soft_group"] = h5py.SoftLink("/group")
    f["beyond"] = h5py.ExternalLink("elsewhere.h5", "/group/good")
    f.create_dataset("outside", shape=(6,), dtype="<f4", external=[("elsewhere.bin", 0, 24)])
    layout = h5py.VirtualLayout(shape=(6,), dtype="<f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(6,))
    f.create_virtual_dataset("virtual", layout)
    f.create_dataset("szip_like", shape=(6,), chunks=(6,), dtype="<f4", scaleoffset=2)
    f.create_dataset("rank5", data=np.zeros((1, 1, 1, 1, 1), "<f4"))
    f.create_dataset("compound", data=np.zeros(2, [("a", "<f4"), ("b", "<i4")]))
    f.create_dataset("varlen", data="text", dtype=h5py.string_dtype())
    f.create_dataset("big_endian", data=values.astype(">f4"))
    f.create_dataset("reference", data=f["group/good"].ref, dtype=h5py.ref_dtype)
    f.create_dataset("huge", shape=(2**31, 2**31, 2**31), chunks=(1, 1, 1), dtype="<f4")
    f["named_type"] = np.dtype("<f4")
