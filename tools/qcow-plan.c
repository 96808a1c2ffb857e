/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow-plan: what it costs to drop points in time from a chain. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tool-output.h"
#include "tool-progress.h"

static char **drop;
static gboolean run_it;

static const GOptionEntry entries[] = {
    { "drop", 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &drop,
      "A layer whose point in time is not needed any more: its name or [INDEX]; more may follow",
      "LAYER" },
    { "run", 0, 0, G_OPTION_ARG_NONE, &run_it, "Do it, each group the cheapest way that is not refused",
      NULL },
    { NULL },
};

static const ToolCommand command = {
    .name = "qcow-plan",
    .synopses = (const char *const[]) { "[OPTION...] --drop=LAYER... TOP", NULL },
    .arguments = (const char *const[]) { "TOP", NULL },
    .min_arguments = 1,
    .max_arguments = 1024,
    .arguments_error = "Expecting one image file name",
    .description =
        "Tells what it costs to drop points in time from a backing chain: what pulling and committing "
        "would read and write, in every order, and which files hold what then. Draws the chain.",
    .notes = (const char *const[]) {
        "Neighbouring layers that go are a group. Pulled into the layer above it, the files that go are "
        "not changed; committed into a file of the group, that file holds the layer above then, and the "
        "others are not valid by themselves.",
        "The bytes and clusters are those that qcow-pull and qcow-commit will count, found from metadata "
        "alone. The time is an estimate from them, at 2 GiB a second.",
        "A merge that would change what other images or internal snapshots read is refused when it is "
        "run. --run then takes the next way, and fails with the reason when none is left.",
        NULL,
    },
    .entries = entries,
    .shared = TOOL_FORMAT | TOOL_IMAGE_OPTS | TOOL_FORCE_SHARE | TOOL_IMAGE | TOOL_TARGET_CACHE
              | TOOL_PROGRESS | TOOL_RATE | TOOL_NO_REFLINK,
    .exit_codes = (const ToolText[]) {
        { "0", "The plan was printed, or run." },
        { "1", "Failed." },
        { "2", "Wrong usage." },
        { "130, 143", "Interrupted by SIGINT or SIGTERM; the chain reads as before." },
        { NULL },
    },
    .examples = (const ToolText[]) {
        { "qcow-plan --drop=tuesday.qcow2 --drop=wednesday.qcow2 active.qcow2",
          "learn what dropping two days would cost" },
        { "qcow-plan --run --drop='[1]' active.qcow2", "drop the layer below the active one" },
        { NULL },
    },
    .usage_status = 2,
};

/* ---- Names ------------------------------------------------------------------------------------- */

static char *layer_name(Qcow2Chain *chain, unsigned index)
{
    Qcow2ImageInfo info;

    return qcow2_chain_get_info(chain, index, &info, NULL) ? g_strdup(info.filename) : g_strdup("?");
}

static char *shown_name(Qcow2Chain *chain, unsigned index)
{
    g_autofree char *name = layer_name(chain, index);

    return qcow2_escape_name(name, -1);
}

/* A word that a shell reads as bytes that cannot be printed: its escapes are ours, but for the quote's. */
static char *quote_bytes(const char *name)
{
    g_autofree char *escaped = qcow2_escape_name(name, -1);
    g_auto(GStrv) parts = g_strsplit(escaped, "'", -1);
    g_autofree char *text = g_strjoinv("\\'", parts);

    return g_strdup_printf("$'%s'", text);
}

/* A word for a shell, as it is where a shell sees nothing special in it. */
static char *shell_word(Qcow2Chain *chain, unsigned index)
{
    static const char plain[] = G_CSET_a_2_z G_CSET_A_2_Z G_CSET_DIGITS "./_-+:@%,=";
    g_autofree char *name = layer_name(chain, index);
    g_autofree char *printable = tool_escape_message(name);
    bool is_plain = *name && *name != '-' && !name[strspn(name, plain)];

    return is_plain                     ? g_steal_pointer(&name)
         : strcmp(name, printable) == 0 ? g_shell_quote(name)
                                        : quote_bytes(name);
}

static char *command_of(Qcow2Chain *chain, const Qcow2PlanStep *step)
{
    g_autofree char *layer = shell_word(chain, step->layer);
    g_autofree char *top = shell_word(chain, 0);
    bool has_other = step->other < qcow2_chain_n_layers(chain);
    g_autofree char *other = has_other ? shell_word(chain, step->other) : NULL;

    if (step->kind == QCOW2_PLAN_PULL) {
        return has_other ? g_strdup_printf("qcow-pull -b %s %s", other, layer)
                         : g_strdup_printf("qcow-pull %s", layer);
    }
    return step->layer == 0 ? g_strdup_printf("qcow-commit -b %s %s", other, top)
                            : g_strdup_printf("qcow-commit --top %s -b %s %s", layer, other, top);
}

/* ---- For people -------------------------------------------------------------------------------- */

static bool is_dropped(const Qcow2Plan *plan, unsigned layer)
{
    for (unsigned i = 0; i < plan->n_groups; i++) {
        if (layer >= plan->groups[i].first && layer <= plan->groups[i].last) {
            return true;
        }
    }
    return false;
}

static void draw_chain(Qcow2Chain *chain, const Qcow2Plan *plan)
{
    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        g_autofree char *name = shown_name(chain, i);
        printf("%s[%u] %s%s\n", i > 0 ? "  |\n" : "", i, name, is_dropped(plan, i) ? "   (drop)" : "");
    }
}

static void print_way(Qcow2Chain *chain, const Qcow2PlanWay *way, bool cheapest)
{
    g_autofree char *read = qcow2_format_size(way->bytes_read);
    g_autofree char *written = qcow2_format_size(way->bytes_written);
    g_autofree char *metadata = qcow2_format_size(way->metadata_written);

    printf("  %s reads %s, writes %s and %s of metadata, about %.2f seconds\n",
           cheapest ? "cheapest:" : "or:", read, written, metadata, way->seconds);
    for (unsigned i = 0; i < way->n_steps; i++) {
        g_autofree char *text = command_of(chain, &way->steps[i]);
        printf("      %s   (%" PRIu64 " bytes, %" PRIu64 " clusters)\n", text, way->steps[i].bytes,
               way->steps[i].clusters);
    }
    for (unsigned i = 0; i < way->n_invalid; i++) {
        g_autofree char *name = shown_name(chain, way->invalid[i]);
        printf("      does not hold its point in time then: %s\n", name);
    }
}

static void print_plan(Qcow2Chain *chain, const Qcow2Plan *plan)
{
    draw_chain(chain, plan);
    for (unsigned i = 0; i < plan->n_groups; i++) {
        const Qcow2PlanGroup *group = &plan->groups[i];
        if (group->first == group->last) {
            printf("\nTo drop [%u]:\n", group->first);
        } else {
            printf("\nTo drop [%u] to [%u]:\n", group->first, group->last);
        }
        for (unsigned j = 0; j < group->n_ways; j++) {
            print_way(chain, &group->ways[j], j == 0);
        }
    }
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static void add_costs(GVariantBuilder *object, uint64_t read, uint64_t written, uint64_t metadata,
                      double seconds)
{
    tool_json_add_uint(object, "bytes-read", read);
    tool_json_add_uint(object, "bytes-written", written);
    tool_json_add_uint(object, "metadata-written", metadata);
    tool_json_add(object, "seconds", g_variant_new_double(seconds));
}

static GVariant *step_object(Qcow2Chain *chain, const Qcow2PlanStep *step)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    g_autofree char *text = command_of(chain, step);

    tool_json_add_string(&object, "operation", step->kind == QCOW2_PLAN_PULL ? "pull" : "commit");
    tool_json_add_string(&object, "command", text);
    tool_json_add_uint(&object, "bytes", step->bytes);
    tool_json_add_uint(&object, "clusters", step->clusters);
    add_costs(&object, step->bytes_read, step->bytes_written, step->metadata_written, step->seconds);
    return g_variant_builder_end(&object);
}

static bool is_invalid(const Qcow2PlanWay *way, unsigned layer)
{
    for (unsigned i = 0; i < way->n_invalid; i++) {
        if (way->invalid[i] == layer) {
            return true;
        }
    }
    return false;
}

static GVariant *names_array(Qcow2Chain *chain, const Qcow2PlanWay *way, bool invalid)
{
    GVariantBuilder array = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));

    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        g_autofree char *name = layer_name(chain, i);
        if (is_invalid(way, i) == invalid) {
            g_variant_builder_add(&array, "v", tool_json_name(name));
        }
    }
    return g_variant_builder_end(&array);
}

static GVariant *way_object(Qcow2Chain *chain, const Qcow2PlanWay *way)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    GVariantBuilder steps = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));

    for (unsigned i = 0; i < way->n_steps; i++) {
        g_variant_builder_add(&steps, "v", step_object(chain, &way->steps[i]));
    }
    tool_json_add(&object, "steps", g_variant_builder_end(&steps));
    add_costs(&object, way->bytes_read, way->bytes_written, way->metadata_written, way->seconds);
    tool_json_add(&object, "valid", names_array(chain, way, false));
    tool_json_add(&object, "invalid", names_array(chain, way, true));
    return g_variant_builder_end(&object);
}

static GVariant *group_object(Qcow2Chain *chain, const Qcow2PlanGroup *group)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    GVariantBuilder ways = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));

    for (unsigned i = 0; i < group->n_ways; i++) {
        g_variant_builder_add(&ways, "v", way_object(chain, &group->ways[i]));
    }
    tool_json_add_uint(&object, "first", group->first);
    tool_json_add_uint(&object, "last", group->last);
    tool_json_add(&object, "ways", g_variant_builder_end(&ways));
    return g_variant_builder_end(&object);
}

static bool print_json(const Tool *tool, Qcow2Chain *chain, const Qcow2Plan *plan)
{
    GVariantBuilder object = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE_VARDICT);
    GVariantBuilder layers = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));
    GVariantBuilder groups = G_VARIANT_BUILDER_INIT(G_VARIANT_TYPE("av"));

    for (unsigned i = 0; i < qcow2_chain_n_layers(chain); i++) {
        g_autofree char *name = layer_name(chain, i);
        g_variant_builder_add(&layers, "v", tool_json_name(name));
    }
    for (unsigned i = 0; i < plan->n_groups; i++) {
        g_variant_builder_add(&groups, "v", group_object(chain, &plan->groups[i]));
    }
    tool_json_add(&object, "chain", g_variant_builder_end(&layers));
    tool_json_add(&object, "groups", g_variant_builder_end(&groups));
    return tool_print_json(tool, g_variant_builder_end(&object));
}

/* ---- Doing it ---------------------------------------------------------------------------------- */

/* A step with the names of its files, for when the chain is closed. */
typedef struct Job {
    unsigned group, way;
    Qcow2PlanKind kind;
    char *layer, *other;          /* other: NULL for no backing file */
    bool is_top;
} Job;

static void clear_job(gpointer job)
{
    g_free(((Job *)job)->layer);
    g_free(((Job *)job)->other);
}

static void add_jobs(Qcow2Chain *chain, const Qcow2Plan *plan, unsigned group, unsigned way, GArray *jobs)
{
    const Qcow2PlanWay *found = &plan->groups[group].ways[way];

    for (unsigned i = 0; i < found->n_steps; i++) {
        const Qcow2PlanStep *step = &found->steps[i];
        bool has_other = step->other < qcow2_chain_n_layers(chain);
        Job job = {
            group, way, step->kind, layer_name(chain, step->layer),
            has_other ? layer_name(chain, step->other) : NULL, step->layer == 0,
        };
        g_array_append_val(jobs, job);
    }
}

/* The uppermost group first: a merge may give another file to what is above it, and none to what is below. */
static GArray *jobs_of(Qcow2Chain *chain, const Qcow2Plan *plan)
{
    GArray *jobs = g_array_new(FALSE, FALSE, sizeof(Job));

    g_array_set_clear_func(jobs, clear_job);
    for (unsigned group = 0; group < plan->n_groups; group++) {
        for (unsigned way = 0; way < plan->groups[group].n_ways; way++) {
            add_jobs(chain, plan, group, way, jobs);
        }
    }
    return jobs;
}

static bool run_pull(const Tool *tool, const Job *job, Qcow2Progress *progress, GError **error)
{
    const Qcow2PullOptions options = { .base = job->other, .no_reflink = tool->no_reflink };
    Tool named = *tool;

    /* It is the name of a layer, whatever the chain's was. */
    named.image_opts = job->is_top && tool->image_opts;
    g_autoptr(Qcow2Chain) chain =
        tool_open_exclusive(&named, job->is_top ? tool->arguments[0] : job->layer, NULL, error);
    Qcow2MoveResult result;

    return chain && qcow2_pull(chain, &options, &result, progress, error);
}

static bool run_commit(const Tool *tool, const Job *job, Qcow2Progress *progress, GError **error)
{
    const Qcow2OpenOptions open_options = tool_open_options(tool, tool->format);
    const Qcow2CommitOptions options = {
        .base = job->other, .top = job->is_top ? NULL : job->layer, .no_reflink = tool->no_reflink,
    };
    g_auto(Qcow2CommitResult) result = { 0 };

    return qcow2_commit(tool->arguments[0], &open_options, &options, &result, progress, error);
}

static bool run_job(const Tool *tool, const Job *job, Qcow2Progress *progress, GError **error)
{
    return job->kind == QCOW2_PLAN_PULL ? run_pull(tool, job, progress, error)
                                        : run_commit(tool, job, progress, error);
}

/* The first job from @index on that is of another group, or, unless @whole_group, of another way. */
static guint end_of(const GArray *jobs, guint index, bool whole_group)
{
    const Job *first = &g_array_index(jobs, Job, index);

    while (index < jobs->len && g_array_index(jobs, Job, index).group == first->group
           && (whole_group || g_array_index(jobs, Job, index).way == first->way)) {
        index++;
    }
    return index;
}

/* These come before the first write: another way may do. */
static bool was_refused(const GError *error)
{
    return g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_IN_USE)
        || g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_UNSUPPORTED)
        || g_error_matches(error, QCOW2_ERROR, QCOW2_ERROR_NO_SPACE);
}

/* The jobs [first, end) of one group: those of the cheapest way that is not refused. Counts what is done. */
static bool run_group(const Tool *tool, const GArray *jobs, guint first, guint end, guint *n_done,
                      Qcow2Progress *progress, GError **error)
{
    g_autoptr(GError) refusal = NULL;

    while (first < end) {
        g_autoptr(GError) cause = NULL;
        guint way_end = end_of(jobs, first, false);
        bool started = false;
        while (first < way_end && run_job(tool, &g_array_index(jobs, Job, first), progress, &cause)) {
            started = true;
            ++*n_done;
            first++;
        }
        if (first == way_end) {
            return true;
        }
        if (started || !was_refused(cause)) {
            g_propagate_error(error, g_steal_pointer(&cause));
            return false;
        }
        if (!tool->quiet && !tool->json && way_end < end) {
            printf("Refused, so the next way is taken: %s\n", cause->message);
        }
        /* The cheapest way's reason is the one to know. */
        if (!refusal) {
            refusal = g_steal_pointer(&cause);
        }
        first = way_end;
    }
    g_propagate_error(error, g_steal_pointer(&refusal));
    return false;
}

static int run_jobs(const Tool *tool, const GArray *jobs)
{
    g_autoptr(ToolProgress) progress = tool_progress_start(tool, tool->json);
    g_autoptr(GError) error = NULL;
    guint n_done = 0;
    bool ok = true;

    for (guint i = 0; ok && i < jobs->len; i = end_of(jobs, i, true)) {
        ok = run_group(tool, jobs, i, end_of(jobs, i, true), &n_done, tool_progress_get(progress), &error);
    }
    tool_progress_end(progress);
    if (!ok) {
        if (n_done > 0) {
            g_prefix_error(&error, "commands done so far: %u; plan again for the rest: ", n_done);
        }
        int status = tool_progress_interrupted(progress, tool, error,
                                               "the chain reads as before; plan again to go on");
        return status ? status : tool_fail(tool, tool->arguments[0], error);
    }
    return tool_finish(tool, 0);
}

static GArray *plan(const Tool *tool, GError **error)
{
    g_autoptr(Qcow2Chain) chain = tool_open(tool, tool->arguments[0], tool->format, error);
    g_autoptr(Qcow2Plan) found = chain ? qcow2_plan_new(chain, drop, error) : NULL;

    if (!found) {
        return NULL;
    }
    if (tool->json && !print_json(tool, chain, found)) {
        g_set_error(error, QCOW2_ERROR, QCOW2_ERROR_FAILED, "the plan could not be printed");
        return NULL;
    }
    if (!tool->json && !tool->quiet) {
        print_plan(chain, found);
    }
    return jobs_of(chain, found);
}

int main(int argc, char **argv)
{
    g_auto(Tool) tool = { 0 };
    g_autoptr(GError) error = NULL;

    tool_start(&tool, &command, argc, argv);
    if (!drop) {
        tool_usage(&tool, "Must specify what to drop (--drop)");
    }
    if (run_it && tool.force_share) {
        tool_usage(&tool, "force-share=on can only be used with read-only images");
    }
    tool_gather_list(&tool, &drop);
    g_autoptr(GArray) jobs = plan(&tool, &error);
    if (!jobs) {
        return tool_fail(&tool, tool.arguments[0], error);
    }
    return run_it ? run_jobs(&tool, jobs) : tool_finish(&tool, 0);
}
