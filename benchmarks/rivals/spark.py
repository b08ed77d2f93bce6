"""PySpark's RDD API on local[N]; its parts are written as text."""

import sys
from operator import add


def main(source: str, target: str, processes: str) -> None:
    from pyspark import SparkConf, SparkContext

    settings = SparkConf().setMaster(f"local[{processes}]").setAppName("words")
    context = SparkContext(conf=settings.set("spark.ui.enabled", "false"))
    context.setLogLevel("ERROR")
    words = context.textFile(source).flatMap(lambda line: line.split()).map(lambda word: (word, 1))
    words.reduceByKey(add).map(lambda pair: f"{pair[0]}\t{pair[1]}").saveAsTextFile(target)
    context.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
