/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * L2 tables entry by entry, with all that can be wrong in them.
 * Spec: "Cluster mapping", "Extended L2 Entries".
 */
#include "format/l2.h"
#include "image/check-pass.h"
#include "util/progress.h"

/* What QEMU takes an entry for. Unlike a reader it looks at entries that contradict the specification. */
typedef enum { KIND_UNALLOCATED, KIND_ZERO, KIND_ALLOCATED, KIND_COMPRESSED } EntryKind;

/* The table and the entry at hand. */
typedef struct Closely {
    Qcow2CheckPass *pass;
    const Qcow2Layout *layout;
    const Qcow2TableRef *table;
    size_t index;
    uint64_t raw, bitmap;
    uint64_t next_in_file;    /* where the next cluster of an unfragmented disk would be; 0: anywhere */
} Closely;

#define REPORT(look, ...) \
    do { \
        if ((look)->pass->first) { \
            qcow2_check_corrupt((look)->pass, (look)->table->weight, __VA_ARGS__); \
        } \
    } while (0)

static EntryKind kind_of(const Closely *look)
{
    bool has_offset = (look->raw & L2E_HOST_OFFSET) != 0;
    bool at_start_of_data_file = look->layout->has_data_file && (look->raw & L2E_COPIED);

    if (look->raw & L2E_COMPRESSED) {
        return KIND_COMPRESSED;
    }
    if ((look->raw & L2E_ZERO) && !look->layout->extended_l2) {
        return has_offset ? KIND_ALLOCATED : KIND_ZERO;
    }
    /* Offset 0 of a data file is a cluster, which COPIED tells from "unallocated". */
    return has_offset || at_start_of_data_file ? KIND_ALLOCATED : KIND_UNALLOCATED;
}

static void check_reserved(const Closely *look, EntryKind kind)
{
    static const char text[] = "ERROR found l2 entry with reserved bits set: %" PRIx64;
    uint64_t reserved = qcow2_l2_reserved(look->layout, look->raw);

    if (kind != KIND_COMPRESSED && (reserved & L2E_RESERVED)) {
        REPORT(look, text, look->raw);
    } else if (reserved && look->pass->first) {
        /* Bit 0 where there is no flag for zeros; an offset of a compressed cluster past 2^56. */
        qcow2_check_found_more(look->pass, QCOW2_FINDING_CORRUPTION, look->table->weight, text, look->raw);
    }
}

static void check_compressed(const Closely *look)
{
    Qcow2CheckResult *result = &look->pass->result;
    uint64_t raw = look->raw & ~L2E_COPIED;
    Qcow2Layout in_file = *look->layout;
    Qcow2L2Entry entry;

    in_file.has_data_file = false;    /* with one, the decoder refuses the entry */
    qcow2_l2_decode(&in_file, raw, 0, &entry, NULL);
    if (look->raw & L2E_COPIED) {
        REPORT(look, "ERROR: coffset=0x%" PRIx64 ": copied flag must never be set for compressed clusters",
               entry.host_offset);
    }
    if (look->layout->has_data_file) {
        REPORT(look, "ERROR compressed cluster %zu with data file, entry=0x%" PRIx64, look->index, raw);
        return;
    }
    if (look->bitmap) {
        REPORT(look, "ERROR compressed cluster %zu with non-zero subcluster allocation bitmap, "
               "entry=0x%" PRIx64, look->index, raw);
        /* What a guest reads is the stream, whatever the bitmap says: a repair keeps it. */
        if (!qcow2_check_repairs(look->pass)) {
            return;
        }
    }
    qcow2_check_refer(look->pass, entry.host_offset, entry.stream_len, look->table->weight);
    if (look->pass->first) {
        result->allocated_clusters += look->table->active;
        result->compressed_clusters += look->table->active;
        result->fragmented_clusters += look->table->active;
    }
}

/* Returns whether the entry has a cluster; the repair takes a preallocated one away that cannot be used. */
static bool check_place(const Closely *look, uint64_t offset)
{
    bool holds_data = look->layout->extended_l2 ? (uint32_t)look->bitmap != 0 : !(look->raw & L2E_ZERO);

    if ((look->bitmap >> 32) & look->bitmap) {
        REPORT(look, "ERROR offset=%" PRIx64 ": Allocated cluster has corrupted subcluster allocation bitmap",
               offset);
    }
    if (qcow2_is_cluster_aligned(look->layout, offset)) {
        bool is_lost = !look->layout->has_data_file
                    && !qcow2_check_is_inside(look->pass, offset, look->layout->cluster_size);
        if (holds_data || !is_lost || !qcow2_check_repairs(look->pass)) {
            return true;
        }
        qcow2_check_report_outside(look->pass, offset, look->layout->cluster_size, look->table->weight);
        return false;
    }
    if (holds_data) {
        REPORT(look, "ERROR offset=%" PRIx64 ": Data cluster is not properly aligned; L2 entry corrupted.",
               offset);
        return true;
    }
    REPORT(look, "%s offset=%" PRIx64 ": Preallocated cluster is not properly aligned; L2 entry corrupted.",
           qcow2_check_verb(look->pass), offset);
    return !qcow2_check_repairs(look->pass);
}

static bool check_allocated(Closely *look, GError **error)
{
    Qcow2CheckResult *result = &look->pass->result;
    uint64_t offset = look->raw & L2E_HOST_OFFSET;
    bool is_fragmented = look->next_in_file != 0 && offset != look->next_in_file;

    if (!check_place(look, offset)) {
        return true;
    }
    if (look->pass->first) {
        result->allocated_clusters += look->table->active;
        result->fragmented_clusters += is_fragmented ? look->table->active : 0;
    }
    look->next_in_file = offset + look->layout->cluster_size;
    if (!look->layout->has_data_file) {
        qcow2_check_refer(look->pass, offset, look->layout->cluster_size, look->table->weight);
    }
    if (!qcow2_check_judges_flags(look->pass, look->table)) {
        return true;
    }
    Qcow2FlaggedEntry flagged = { .raw = look->raw, .count = look->table->active };
    return qcow2_check_copied(look->pass, &flagged, error);
}

static bool check_entry(Closely *look, GError **error)
{
    EntryKind kind = kind_of(look);

    check_reserved(look, kind);
    switch (kind) {
    case KIND_COMPRESSED:
        check_compressed(look);
        return true;
    case KIND_ALLOCATED:
        return check_allocated(look, error);
    case KIND_UNALLOCATED:
        if ((uint32_t)look->bitmap) {
            REPORT(look, "ERROR: Unallocated cluster has non-zero subcluster allocation map");
        }
        return true;
    case KIND_ZERO:
        return true;
    }
    return true;
}

bool qcow2_check_table_closely(Qcow2CheckPass *pass, const Qcow2TableRef *table, const uint8_t *raw,
                               GError **error)
{
    const Qcow2Layout *layout = pass->layout;
    Closely look = { .pass = pass, .layout = layout, .table = table };

    for (look.index = 0; look.index < BIT(layout->l2_bits); look.index++) {
        const uint8_t *entry = raw + look.index * layout->l2_entry_size;
        look.raw = qcow2_load_be64(entry);
        look.bitmap = layout->extended_l2 ? qcow2_load_be64(entry + 8) : 0;
        if ((look.raw || look.bitmap) && !check_entry(&look, error)) {
            return false;
        }
    }
    return qcow2_progress_check(pass->progress, error);
}

/* ---- COPIED flags -------------------------------------------------------------------------------- */

static bool report_flag(Qcow2CheckPass *pass, const Qcow2FlaggedEntry *entry, uint64_t cluster,
                        GError **error)
{
    uint64_t refcount = 1;

    if (!entry->is_l1 && pass->layout->has_data_file) {
        /* Nothing is counted in a data file, and nothing in it is shared. */
    } else if (!qcow2_check_has_refcount(pass, cluster)) {
        return true;
    } else if (!qcow2_check_read_refcount(pass, cluster, &refcount, error)) {
        return false;
    }
    if ((refcount == 1) == ((entry->raw & L2E_COPIED) != 0)) {
        return true;
    }
    pass->n_flags += entry->count;
    if (pass->source->repair && !pass->wanted) {
        return true;    /* said when the refcounts are known as they will be */
    }
    if (entry->is_l1) {
        qcow2_check_corrupt(pass, entry->count,
                            "%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64
                            " refcount=%" PRIu64, qcow2_check_verb(pass), entry->l1_index, entry->raw,
                            refcount);
    } else {
        qcow2_check_corrupt(pass, entry->count,
                            "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64,
                            qcow2_check_verb(pass), entry->raw, refcount);
    }
    return true;
}

bool qcow2_check_copied(Qcow2CheckPass *pass, const Qcow2FlaggedEntry *entry, GError **error)
{
    uint64_t cluster = (entry->raw & L2E_HOST_OFFSET) >> pass->layout->cluster_bits;
    bool has_window = cluster < pass->limit && (entry->is_l1 || !pass->layout->has_data_file);
    bool is_here = has_window ? cluster >= pass->flags_start && cluster < pass->flags_end
                              : pass->first || pass->wanted;

    if (!is_here || (has_window && qcow2_check_flags_agree(pass, cluster, 1, entry->raw & L2E_COPIED))) {
        return true;
    }
    return report_flag(pass, entry, cluster, error);
}
