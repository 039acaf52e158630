# SPDX-License-Identifier: GPL-2.0-or-later
# Makes a C string of each interface file: "a.b.NAME.varlink" becomes interface_text_NAME.
BEGIN {
	print "/* Made from the files in conf/ by common/interface-text.awk. */"
	print "#include \"common/interface.h\""
}
FNR == 1 {
	if (NR > 1)
		print "\t;"
	n = split(FILENAME, part, ".")
	printf "\nconst char interface_text_%s[] =\n", part[n - 1]
}
{
	# How awks escape a backslash in gsub() differs: the files have none, nor tabs.
	if (/[\\\t]/) {
		print FILENAME ":" FNR ": backslash or tab" >"/dev/stderr"
		exit 1
	}
	gsub(/"/, "\\\"")
	print "\t\"" $0 "\\n\""
}
END { print "\t;" }
