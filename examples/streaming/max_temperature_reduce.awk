#!/usr/bin/awk -f
# The highest temperature of each year.
BEGIN { FS = OFS = "\t" }
NR > 1 && $1 != year { print year, highest }
NR == 1 || $1 != year { year = $1; highest = $2 + 0; next }
$2 + 0 > highest { highest = $2 + 0 }
END { if (NR) print year, highest }
