/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A stream from a monitor: framed, parsed, and every answer tried as every kind of answer. */
#include "common/util.h"
#include "daemon/qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct qmp_memdev devs[QMP_MEMDEVS_MAX];
static char ids[QMP_MEMDEVS_MAX][QMP_ID_BYTES], balloons[QMP_BALLOONS_MAX][QMP_ID_BYTES];

static void check_ends(const char *s, size_t size)
{
	if (strnlen(s, size) == size)
		abort();
}

static void try_all(const json_t *j)
{
	struct qmp_migration migration = { 0 };
	struct qmp_identity id = { 0 };
	struct qmp_status status = { 0 };
	struct qmp_version version;
	uint64_t bytes;
	uint32_t flags = 0;
	size_t n;

	if (qmp_parse_memdevs(j, devs, &n) == 0)
		for (size_t i = 0; i < n; i++)
			check_ends(devs[i].id, sizeof(devs[i].id));
	if (qmp_parse_devices(j, &flags, balloons, &n) == 0)
		for (size_t i = 0; i < n; i++)
			if (strnlen(balloons[i], QMP_ID_BYTES) == QMP_ID_BYTES || !*balloons[i])
				abort();
	if (qmp_parse_backends(j, ids, &n) == 0)
		for (size_t i = 0; i < n; i++)
			if (!qmp_id_valid(ids[i]))
				abort();
	(void)qmp_parse_ram(j, &bytes);
	(void)qmp_parse_name(j, &id);
	(void)qmp_parse_uuid(j, &id);
	(void)qmp_parse_status(j, &status);
	(void)qmp_parse_migrate(j, &migration);
	(void)qmp_parse_capabilities(j, &migration);
	(void)qmp_parse_greeting(j, &version);
	check_ends(id.name, sizeof(id.name));
	check_ends(id.uuid, sizeof(id.uuid));
	check_ends(status.status, sizeof(status.status));
	check_ends(migration.status, sizeof(migration.status));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *at = (const char *)data, *end = at + size;

	while (at < end) {
		struct qmp_framer framer = { 0 };
		struct qmp_message m;
		int64_t len;

		/* In two pieces: the framer must not care. */
		len = qmp_frame(&framer, at, (size_t)(end - at) / 2);
		if (len == 0)
			len = qmp_frame(&framer, at, (size_t)(end - at));
		if (len <= 0)
			break;
		if (len > end - at)
			abort();
		if (qmp_parse_message(at, (size_t)len, &m) == 0) {
			try_all(m.body);
			qmp_message_done(&m);
		}
		at += len;
	}
	return 0;
}
