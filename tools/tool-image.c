/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tool-image.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tool-output.h"

/* ---- What is specific to the format ------------------------------------------------------------ */

/*
 * People and programs get the same tree; the order of its keys is the one that qemu-img prints. Only
 * names differ: JSON has escapes of its own, a terminal needs ours.
 */
typedef GVariant *(*NameFunc)(const char *name);

static GVariant *name_for_people(const char *name)
{
    return g_variant_new_take_string(qcow2_escape_name(name, -1));
}

static void put_bitmap(GVariantBuilder *object, const Qcow2BitmapInfo *bitmap, NameFunc make_name)
{
    GVariantBuilder flags = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("as"));

    if (bitmap->in_use) {
        g_variant_builder_add(&flags, "s", "in-use");
    }
    if (bitmap->enabled) {
        g_variant_builder_add(&flags, "s", "auto");
    }
    tool_json_add(object, "flags", g_variant_builder_end(&flags));
    tool_json_add(object, "name", make_name(bitmap->name));
    tool_json_add_uint(object, "granularity", bitmap->granularity);
}

void tool_bitmap_to_json(const Qcow2BitmapInfo *bitmap, GVariantBuilder *object)
{
    put_bitmap(object, bitmap, tool_json_name);
}

static GVariant *bitmaps_to_json(const Qcow2ImageInfo *info, NameFunc make_name)
{
    GVariantBuilder list = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));

    for (unsigned i = 0; i < info->n_bitmaps; i++) {
        GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
        put_bitmap(&object, &info->bitmaps[i], make_name);
        g_variant_builder_add_value(&list, g_variant_builder_end(&object));
    }
    return g_variant_builder_end(&list);
}

static GVariant *luks_slots_to_json(const Qcow2LuksInfo *luks)
{
    GVariantBuilder list = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));

    for (size_t i = 0; i < G_N_ELEMENTS(luks->slots); i++) {
        const Qcow2LuksSlot *slot = &luks->slots[i];
        GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

        tool_json_add_bool(&object, "active", slot->active);
        if (slot->active) {
            tool_json_add_uint(&object, "iters", slot->iterations);
        }
        tool_json_add_uint(&object, "key-offset", slot->key_offset);
        if (slot->active) {
            tool_json_add_uint(&object, "stripes", slot->stripes);
        }
        g_variant_builder_add_value(&list, g_variant_builder_end(&object));
    }
    return g_variant_builder_end(&list);
}

static GVariant *encryption_to_json(const Qcow2ImageInfo *info, NameFunc make_name)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    const Qcow2LuksInfo *luks = info->luks;

    if (luks) {
        tool_json_add(&object, "ivgen-alg", make_name(luks->ivgen_alg));
        if (luks->ivgen_hash_alg[0]) {
            tool_json_add(&object, "ivgen-hash-alg", make_name(luks->ivgen_hash_alg));
        }
        tool_json_add_bool(&object, "detached-header", false);
        tool_json_add(&object, "hash-alg", make_name(luks->hash_alg));
        tool_json_add(&object, "cipher-alg", make_name(luks->cipher_alg));
        tool_json_add(&object, "uuid", make_name(luks->uuid));
    }
    tool_json_add(&object, "format", make_name(info->encryption));
    if (luks) {
        tool_json_add(&object, "cipher-mode", make_name(luks->cipher_mode));
        tool_json_add(&object, "slots", luks_slots_to_json(luks));
        tool_json_add_uint(&object, "payload-offset", luks->payload_offset);
        tool_json_add_uint(&object, "master-key-iters", luks->master_key_iterations);
    }
    return g_variant_builder_end(&object);
}

static GVariant *format_specific(const Qcow2ImageInfo *info, NameFunc make_name)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    bool v3 = info->version >= 3;

    tool_json_add_string(&object, "compat", v3 ? "1.1" : "0.10");
    tool_json_add(&object, "compression-type", make_name(info->compression_type));
    if (v3) {
        tool_json_add_bool(&object, "lazy-refcounts", info->lazy_refcounts);
    }
    if (info->n_bitmaps) {
        tool_json_add(&object, "bitmaps", bitmaps_to_json(info, make_name));
    }
    tool_json_add_uint(&object, "refcount-bits", info->refcount_bits);
    if (info->data_file) {
        tool_json_add(&object, "data-file", make_name(info->data_file));
        tool_json_add_bool(&object, "data-file-raw", info->data_file_raw);
    }
    if (info->encryption) {
        tool_json_add(&object, "encrypt", encryption_to_json(info, make_name));
    }
    if (v3) {
        tool_json_add_bool(&object, "corrupt", info->corrupt);
        tool_json_add_bool(&object, "extended-l2", info->extended_l2);
    }
    return g_variant_builder_end(&object);
}

/* Of the file that holds the image. */
static GVariant *file_specific(const Qcow2ImageInfo *info)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    if (info->extent_size_hint) {
        tool_json_add_uint(&object, "extent-size-hint", info->extent_size_hint);
    }
    return g_variant_builder_end(&object);
}

/* ---- For people -------------------------------------------------------------------------------- */

static void print_tree(GVariant *value, int level);

static void print_value(GVariant *value, int level)
{
    if (g_variant_is_of_type(value, G_VARIANT_TYPE_STRING)) {
        printf(" %s\n", g_variant_get_string(value, NULL));
    } else if (g_variant_is_of_type(value, G_VARIANT_TYPE_BOOLEAN)) {
        printf(" %s\n", g_variant_get_boolean(value) ? "true" : "false");
    } else if (g_variant_is_of_type(value, G_VARIANT_TYPE_UINT64)) {
        printf(" %" PRIu64 "\n", g_variant_get_uint64(value));
    } else {
        putchar('\n');
        print_tree(value, level + 1);
    }
}

/* "key:" and "[index]:", each level indented by four columns; dashes of keys become spaces. */
static void print_tree(GVariant *tree, int level)
{
    bool is_object = g_variant_is_of_type(tree, G_VARIANT_TYPE_VARDICT);
    size_t n = g_variant_n_children(tree);

    for (size_t i = 0; i < n; i++) {
        g_autoptr(GVariant) child = g_variant_get_child_value(tree, i);

        printf("%*s", level * 4, "");
        if (is_object) {
            g_autoptr(GVariant) value = NULL;
            g_autofree char *key = NULL;
            g_variant_get(child, "{sv}", &key, &value);
            printf("%s:", g_strdelimit(key, "-", ' '));
            print_value(value, level);
        } else {
            printf("[%zu]:", i);
            print_value(child, level);
        }
    }
}

/* QEMU counts disks in sectors: a file that ends inside one reads as zeros up to the sector's end. */
static uint64_t whole_sectors(uint64_t bytes)
{
    return (bytes + 511) / 512 * 512;
}

static uint64_t virtual_size(const Qcow2ImageInfo *info)
{
    return info->version ? info->virtual_size : whole_sectors(info->virtual_size);
}

static void print_size(const char *label, uint64_t bytes)
{
    g_autofree char *text = qcow2_format_size(bytes);

    printf("%s: %s (%" PRIu64 " bytes)\n", label, text, bytes);
}

static void print_actual_size(const char *indent, const Qcow2ImageInfo *info)
{
    g_autofree char *text = info->has_actual_size ? qcow2_format_size(info->actual_size)
                                                  : g_strdup("unavailable");

    printf("%sdisk size: %s\n", indent, text);
}

static void print_backing(const Qcow2ImageInfo *info)
{
    g_autofree char *name = qcow2_escape_name(info->backing_filename, -1);

    printf("backing file: %s", name);
    if (!info->full_backing_filename) {
        printf(" (cannot determine actual path)");
    } else if (strcmp(info->backing_filename, info->full_backing_filename) != 0) {
        g_autofree char *full = qcow2_escape_name(info->full_backing_filename, -1);
        printf(" (actual path: %s)", full);
    }
    putchar('\n');
    if (info->backing_format) {
        g_autofree char *format = qcow2_escape_name(info->backing_format, -1);
        printf("backing file format: %s\n", format);
    }
}

static void print_child(const Qcow2ImageInfo *info, const char *filename)
{
    printf("Child node '/file':\n    filename: %s\n    protocol type: %s\n", filename, info->protocol);
    print_size("    file length", whole_sectors(info->file_length));
    print_actual_size("    ", info);
    if (info->extent_size_hint) {
        g_autoptr(GVariant) specific = g_variant_ref_sink(file_specific(info));
        printf("    Format specific information:\n");
        print_tree(specific, 2);
    }
}

void tool_print_image(const Qcow2ImageInfo *info)
{
    g_autofree char *filename = qcow2_escape_name(info->filename, -1);

    printf("image: %s\nfile format: %s\n", filename, info->format);
    print_size("virtual size", virtual_size(info));
    print_actual_size("", info);
    if (info->encrypted) {
        printf("encrypted: yes\n");
    }
    if (info->cluster_size) {
        printf("cluster_size: %" PRIu64 "\n", info->cluster_size);
    }
    if (info->dirty) {
        printf("cleanly shut down: no\n");
    }
    if (info->backing_filename) {
        print_backing(info);
    }
    tool_print_snapshots(info);
    if (info->version) {
        g_autoptr(GVariant) specific = g_variant_ref_sink(format_specific(info, name_for_people));
        printf("Format specific information:\n");
        print_tree(specific, 1);
    }
    print_child(info, filename);
}

/* ---- For programs ------------------------------------------------------------------------------ */

static void add_actual_size(GVariantBuilder *object, const Qcow2ImageInfo *info)
{
    if (info->has_actual_size) {
        tool_json_add_uint(object, "actual-size", info->actual_size);
    }
}

static GVariant *specific_to_json(const char *type, GVariant *data)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add_string(&object, "type", type);
    tool_json_add(&object, "data", data);
    return g_variant_builder_end(&object);
}

static bool is_on_file(const Qcow2ImageInfo *info)
{
    return strcmp(info->protocol, "nbd") != 0;
}

/* The file below the format: QEMU's nodes of the driver "file" say more than those of "nbd". */
static GVariant *children_to_json(const Qcow2ImageInfo *info)
{
    GVariantBuilder list = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));
    GVariantBuilder child = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    GVariantBuilder node = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add(&node, "children", g_variant_new_array(G_VARIANT_TYPE_VARDICT, NULL, 0));
    tool_json_add_uint(&node, "virtual-size", whole_sectors(info->file_length));
    tool_json_add_string(&node, "filename", info->filename);
    tool_json_add_string(&node, "format", info->protocol);
    add_actual_size(&node, info);
    if (is_on_file(info)) {
        tool_json_add(&node, "format-specific", specific_to_json("file", file_specific(info)));
        tool_json_add_bool(&node, "dirty-flag", false);
    }
    tool_json_add_string(&child, "name", "file");
    tool_json_add(&child, "info", g_variant_builder_end(&node));
    g_variant_builder_add_value(&list, g_variant_builder_end(&child));
    return g_variant_builder_end(&list);
}

static GVariant *snapshot_sizes_to_json(const Qcow2ImageInfo *info)
{
    GVariantBuilder list = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("aa{sv}"));

    for (unsigned i = 0; i < info->n_snapshots; i++) {
        GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
        tool_json_add_string(&object, "id", info->snapshots[i].id);
        tool_json_add_string(&object, "name", info->snapshots[i].name);
        tool_json_add_uint(&object, "virtual-size", info->snapshots[i].disk_size);
        g_variant_builder_add_value(&list, g_variant_builder_end(&object));
    }
    return g_variant_builder_end(&list);
}

/* What qemu-img has no key for. */
static GVariant *additions_to_json(const Qcow2ImageInfo *info)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add_bool(&object, "format-probed", info->format_was_probed);
    if (info->version) {
        tool_json_add_uint(&object, "version", info->version);
        tool_json_add(&object, "snapshots", snapshot_sizes_to_json(info));
    }
    return g_variant_builder_end(&object);
}

GVariant *tool_image_to_json(const Qcow2ImageInfo *info)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);

    tool_json_add(&object, "children", children_to_json(info));
    if (info->backing_filename && info->backing_format) {
        tool_json_add_string(&object, "backing-filename-format", info->backing_format);
    }
    if (info->n_snapshots) {
        tool_json_add(&object, "snapshots", tool_snapshots_to_json(info));
    }
    tool_json_add_uint(&object, "virtual-size", virtual_size(info));
    tool_json_add_string(&object, "filename", info->filename);
    if (info->cluster_size) {
        tool_json_add_uint(&object, "cluster-size", info->cluster_size);
    }
    tool_json_add_string(&object, "format", info->format);
    add_actual_size(&object, info);
    if (info->version) {
        GVariant *data = format_specific(info, tool_json_name);
        tool_json_add(&object, "format-specific", specific_to_json("qcow2", data));
    }
    if (info->full_backing_filename) {
        tool_json_add_string(&object, "full-backing-filename", info->full_backing_filename);
    }
    if (info->backing_filename) {
        tool_json_add_string(&object, "backing-filename", info->backing_filename);
    }
    if (info->encrypted) {
        tool_json_add_bool(&object, "encrypted", true);
    }
    if (info->version || is_on_file(info)) {
        tool_json_add_bool(&object, "dirty-flag", info->dirty);
    }
    tool_json_add(&object, "qcow", additions_to_json(info));
    return g_variant_builder_end(&object);
}
