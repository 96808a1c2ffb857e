/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Snapshots, as a table for people and as JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "tool-image.h"
#include "tool-output.h"

#define NSEC_PER_SEC UINT64_C(1000000000)

static void format_date(uint32_t seconds, char *text, size_t room)
{
    time_t when = seconds;
    struct tm local;

    if (!localtime_r(&when, &local) || strftime(text, room, "%Y-%m-%d %H:%M:%S", &local) == 0) {
        g_strlcpy(text, "-", room);
    }
}

static void print_snapshot(const Qcow2Snapshot *snapshot)
{
    g_autofree char *id = qcow2_escape_name(snapshot->id, -1);
    g_autofree char *name = qcow2_escape_name(snapshot->name, -1);
    g_autofree char *size = qcow2_format_size(snapshot->vm_state_size);
    uint64_t seconds = snapshot->vm_clock_nsec / NSEC_PER_SEC;
    char date[32], clock[64], icount[32] = "--";

    format_date(snapshot->date_sec, date, sizeof(date));
    g_snprintf(clock, sizeof(clock), "%04" PRIu64 ":%02u:%02u.%03u", seconds / 3600,
               (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
               (unsigned)(snapshot->vm_clock_nsec / 1000000 % 1000));
    if (snapshot->icount != UINT64_MAX) {
        g_snprintf(icount, sizeof(icount), "%" PRId64, (int64_t)snapshot->icount);
    }
    printf("%-7s %-16s %8s %19s %15s %10s\n", id, name, size, date, clock, icount);
}

void tool_print_snapshots(const Qcow2ImageInfo *info)
{
    if (info->n_snapshots == 0) {
        return;
    }
    printf("Snapshot list:\n%-7s %-16s %8s %19s %15s %10s\n",
           "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT");
    for (unsigned i = 0; i < info->n_snapshots; i++) {
        print_snapshot(&info->snapshots[i]);
    }
}

GVariant *tool_snapshots_to_json(const Qcow2ImageInfo *info)
{
    GVariantBuilder list = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));

    for (unsigned i = 0; i < info->n_snapshots; i++) {
        const Qcow2Snapshot *snapshot = &info->snapshots[i];
        GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

        if (snapshot->icount != UINT64_MAX) {
            tool_json_add(&object, "icount", g_variant_new_int64((int64_t)snapshot->icount));
        }
        tool_json_add_uint(&object, "vm-clock-nsec", snapshot->vm_clock_nsec % NSEC_PER_SEC);
        tool_json_add_string(&object, "name", snapshot->name);
        tool_json_add_uint(&object, "date-sec", snapshot->date_sec);
        tool_json_add_uint(&object, "date-nsec", snapshot->date_nsec);
        tool_json_add_uint(&object, "vm-clock-sec", snapshot->vm_clock_nsec / NSEC_PER_SEC);
        tool_json_add_string(&object, "id", snapshot->id);
        tool_json_add_uint(&object, "vm-state-size", snapshot->vm_state_size);
        g_variant_builder_add_value(&list, g_variant_builder_end(&object));
    }
    return g_variant_builder_end(&list);
}
