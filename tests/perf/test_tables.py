"""Tables of known figures."""

from perf.tables import Figure, comparison, spread


def figure(tool, step, seconds, run=0, **more):
    common = {"cpu": seconds, "server_cpu": None, "pss": 2**20, "server_pss": None,
              "sent": None, "stored": 3 * 2**20, "synced": seconds + 1}  # fmt: skip
    return Figure("image", tool, step, run, seconds, **common | more)


def test_median_least_and_most():
    assert spread([3.0, 1.0, 2.5], ".1f") == "2.5 [1.0-3.0]"
    assert spread([3.0], ".1f") == "3.0"


def test_each_peers_figure_is_followed_by_how_many_times_ours_it_is():
    figures = [
        figure("ours", "backup", 2.0, 0, server_cpu=0.5),
        figure("ours", "backup", 4.0, 1, server_cpu=0.5),
        figure("ours", "restore", 1.0, sent=2**19),
        figure("peer", "backup", 9.0, stored=6 * 2**20),
        figure("peer", "backup", 7.0)._replace(work="another"),
    ]
    heads = {"ours": "ours", "peer": "peer (near)"}
    table = list(comparison("image", heads, ["backup", "restore"], figures))
    assert table == [
        "image                                   ours     peer (near)",
        "backup, s                   3.00 [2.00-4.00]    9.00   3.00x",
        "restore, s                              1.00       -",
        "until synced: backup, s     4.00 [3.00-5.00]   10.00   2.50x",
        "until synced: restore, s                2.00       -",
        "stored after backup, MiB       3.0 [3.0-3.0]     6.0   2.00x",
        "CPU of backup, s            3.00 [2.00-4.00]    9.00   3.00x",
        "CPU of restore, s                       1.00       -",
        "server's CPU of backup, s   0.50 [0.50-0.50]       -",
        "memory of backup, MiB                1 [1-1]       1   1.00x",
        "memory of restore, MiB                     1       -",
        "sent in restore, MiB                     0.5       -",
    ]
