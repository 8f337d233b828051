"""Names and metadata for unit tests, by hypothesis."""

from hypothesis import strategies as st

import torture

names = st.binary(min_size=1, max_size=torture.NAME_BYTES_MAX).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in {b".", b".."}
)
times_ns = st.one_of(
    st.sampled_from(torture.TIMES_NS),
    st.integers(-(2**31) * torture.SECOND_NS, 15 * 10**9 * torture.SECOND_NS),
)
modes = st.integers(0, 0o7777)
owners = st.integers(0, 2**32 - 2)
xattrs = st.dictionaries(
    st.binary(min_size=1, max_size=40)
    .filter(lambda name: b"\0" not in name)
    .map(lambda name: b"user." + name),
    st.binary(max_size=300),
    max_size=5,
)
