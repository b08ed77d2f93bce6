#!/bin/sh
# The status of each request in a web server's log, and the file that it comes from, which Hadoop and IPDC tell alike.
# (grep would end with status 1 where nothing is found, and the task would fail; sed does not.)
file=$(basename "${mapreduce_map_input_file:-standard input}" | sed 's/[\\/&]/\\&/g')
echo "reporter:status:reading $file" >&2
sed -n "s/^.*\" \([1-5][0-9][0-9]\) .*$/$file \1	1/p"
