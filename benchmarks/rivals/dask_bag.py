"""dask.bag: `frequencies` over the words of the lines, in processes, or on a local cluster of dask.distributed."""

import sys


def main(source: str, target: str, how: str, processes: str) -> None:
    import dask
    import dask.bag

    lines = dask.bag.read_text(source, blocksize=16 << 20, encoding="utf-8", errors="surrogateescape")
    words = lines.str.split().flatten().frequencies()
    if how == "distributed":
        from distributed import Client, LocalCluster

        with LocalCluster(n_workers=int(processes), threads_per_worker=1, dashboard_address=None) as cluster, \
                Client(cluster):
            counts = words.compute()
    else:
        counts = words.compute(scheduler="processes", num_workers=int(processes))
    with open(target, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for word, count in sorted(counts):
            file.write(f"{word}\t{count}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
