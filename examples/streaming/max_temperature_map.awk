#!/usr/bin/awk -f
# Lines `2024-07-01T12:00,roof,31.5`: the year and the temperature of each. What is no temperature is counted.
BEGIN { FS = ","; OFS = "\t" }
$3 ~ /^[-+]?[0-9]+(\.[0-9]+)?\r?$/ { print substr($1, 1, 4), $3 + 0; next }
{ print "reporter:counter:Temperatures,malformed,1" > "/dev/stderr" }
