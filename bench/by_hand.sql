-- The best PostgreSQL that we could write for each question, as bench/queries.py measures it. `:user` is a user's id.

-- top_features
SELECT feature_name, sum(usage_count) AS total_usage
FROM feature_usage GROUP BY feature_name ORDER BY total_usage DESC, feature_name LIMIT 5

-- top_features, 7 days
SELECT feature_name, sum(usage_count) AS total_usage
FROM feature_usage_history WHERE bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '6 days'
GROUP BY feature_name ORDER BY total_usage DESC, feature_name LIMIT 5

-- user_features
SELECT feature_name, usage_count, last_used, metadata
FROM feature_usage WHERE user_id = :user AND last_used >= now() AT TIME ZONE 'utc' - interval '7 days'
ORDER BY last_used DESC, feature_name

-- adoption
SELECT feature_name, count(user_id) AS unique_users, sum(usage_count) AS uses,
  count(user_id)::float8 / (SELECT count(*) FROM users) AS share
FROM feature_usage GROUP BY feature_name ORDER BY unique_users DESC, uses DESC, feature_name

-- adoption, users unknown
SELECT feature_name, count(user_id) AS unique_users, sum(usage_count) AS uses,
  count(user_id)::float8 / (SELECT count(*) FROM (SELECT 1 FROM feature_usage WHERE user_id IS NOT NULL GROUP BY user_id) s)
    AS share
FROM feature_usage GROUP BY feature_name ORDER BY unique_users DESC, uses DESC, feature_name

-- adoption by plan
WITH counts AS (
  SELECT feature_name, plan, count(user_id) AS unique_users, sum(usage_count) AS uses
  FROM feature_usage LEFT JOIN users ON users.id = user_id GROUP BY feature_name, plan
)
SELECT feature_name, plan, unique_users, uses, coalesce(unique_users::float8 / size, 0) AS share
FROM counts LEFT JOIN (SELECT plan AS p, count(*) AS size FROM users GROUP BY plan) sizes
  ON p = plan OR p IS NULL AND plan IS NULL
ORDER BY unique_users DESC, uses DESC, feature_name, plan

-- adoption, 28 days
WITH used AS MATERIALIZED (
  SELECT feature_name, user_id, sum(usage_count) AS uses
  FROM feature_usage_history WHERE bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days'
  GROUP BY feature_name, user_id
)
SELECT feature_name, count(user_id) AS unique_users, sum(uses) AS uses,
  count(user_id)::float8 / (SELECT count(*) FROM users) AS share
FROM used GROUP BY feature_name ORDER BY unique_users DESC, uses DESC, feature_name

-- unused_features
SELECT c.feature_name, CASE WHEN bool_and(until > last_declared_at + interval '30 days') THEN 'retired' ELSE 'never' END
    AS status, 0 AS uses, NULL::timestamp AS last_used, min(declared_at) AS declared_at, max(description) AS description
FROM feature_usage_catalog c
JOIN (SELECT service, max(last_declared_at) AS until FROM feature_usage_catalog GROUP BY service) s USING (service)
LEFT JOIN (SELECT feature_name FROM feature_usage GROUP BY feature_name) u USING (feature_name)
WHERE u.feature_name IS NULL
GROUP BY c.feature_name ORDER BY c.feature_name

-- unused_features, 30 days
WITH used AS (
  SELECT feature_name, sum(usage_count) AS uses, max(last_used) AS last_used FROM feature_usage GROUP BY feature_name
), declared AS (
  SELECT feature_name, bool_and(until > last_declared_at + interval '30 days') AS retired,
    min(declared_at) AS declared_at, max(description) AS description
  FROM feature_usage_catalog
  JOIN (SELECT service, max(last_declared_at) AS until FROM feature_usage_catalog GROUP BY service) s USING (service)
  GROUP BY feature_name
)
SELECT feature_name, CASE WHEN retired THEN 'retired' WHEN last_used IS NULL THEN 'never'
    WHEN declared_at IS NULL THEN 'undeclared' ELSE 'dormant' END AS status,
  coalesce(uses, 0) AS uses, last_used, declared_at, description
FROM used FULL JOIN declared USING (feature_name)
WHERE last_used IS NULL OR last_used < now() AT TIME ZONE 'utc' - interval '30 days'
ORDER BY last_used IS NOT NULL, last_used, feature_name

-- power_users
WITH used AS (
  SELECT user_id, sum(usage_count) AS uses, count(feature_name) AS features, max(last_used) AS last_used
  FROM feature_usage GROUP BY user_id
)
SELECT user_id, uses, uses::float8 / (SELECT sum(uses) FROM used) AS share, features, last_used
FROM used WHERE user_id IS NOT NULL ORDER BY uses DESC, user_id LIMIT 10

-- power_users of a feature
SELECT user_id, usage_count AS uses,
  usage_count::float8 / (SELECT sum(usage_count) FROM feature_usage WHERE feature_name = 'feature 7') AS share,
  1 AS features, last_used
FROM feature_usage WHERE feature_name = 'feature 7' AND user_id IS NOT NULL
ORDER BY usage_count DESC, user_id LIMIT 10

-- power_users, 28 days
WITH used AS MATERIALIZED (
  SELECT user_id, sum(usage_count) AS uses
  FROM feature_usage_history WHERE bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days'
  GROUP BY user_id
), top AS (
  SELECT user_id, uses FROM used WHERE user_id IS NOT NULL ORDER BY uses DESC, user_id LIMIT 10
)
SELECT user_id, uses, uses::float8 / (SELECT sum(uses) FROM used) AS share,
  (SELECT count(DISTINCT feature_name) FROM feature_usage_history h WHERE h.user_id = top.user_id
    AND bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days') AS features,
  (SELECT max(last_used) FROM feature_usage f WHERE f.user_id = top.user_id) AS last_used
FROM top ORDER BY uses DESC, user_id

-- trend
WITH by_user AS (
  SELECT bucket_start, user_id, sum(usage_count) AS uses
  FROM feature_usage_history WHERE bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days'
  GROUP BY bucket_start, user_id
), used AS (
  SELECT date_trunc('day', bucket_start) AS bucket_start, sum(uses) AS uses, count(DISTINCT user_id) AS unique_users,
    sum(uses) FILTER (WHERE user_id IS NULL) AS anonymous_uses
  FROM by_user GROUP BY 1
)
SELECT bucket_start, coalesce(uses, 0) AS uses, coalesce(unique_users, 0) AS unique_users,
  coalesce(anonymous_uses, 0) AS anonymous_uses
FROM generate_series(date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days', now() AT TIME ZONE 'utc',
  interval '1 day') AS bucket_start
LEFT JOIN used USING (bucket_start) ORDER BY bucket_start

-- trend of a feature
WITH by_user AS (
  SELECT date_trunc('day', bucket_start) AS bucket_start, user_id, sum(usage_count) AS uses
  FROM feature_usage_history
  WHERE bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days' AND feature_name = 'feature 7'
  GROUP BY 1, 2
), used AS (
  SELECT bucket_start, sum(uses) AS uses, count(user_id) AS unique_users,
    sum(uses) FILTER (WHERE user_id IS NULL) AS anonymous_uses
  FROM by_user GROUP BY 1
)
SELECT bucket_start, coalesce(uses, 0) AS uses, coalesce(unique_users, 0) AS unique_users,
  coalesce(anonymous_uses, 0) AS anonymous_uses
FROM generate_series(date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days', now() AT TIME ZONE 'utc',
  interval '1 day') AS bucket_start
LEFT JOIN used USING (bucket_start) ORDER BY bucket_start

-- trend by month of all time
WITH by_user AS (
  SELECT date_trunc('month', bucket_start) AS bucket_start, user_id, sum(usage_count) AS uses
  FROM feature_usage_history GROUP BY 1, 2
), used AS (
  SELECT bucket_start, sum(uses) AS uses, count(user_id) AS unique_users,
    sum(uses) FILTER (WHERE user_id IS NULL) AS anonymous_uses
  FROM by_user GROUP BY 1
)
SELECT bucket_start, coalesce(uses, 0) AS uses, coalesce(unique_users, 0) AS unique_users,
  coalesce(anonymous_uses, 0) AS anonymous_uses
FROM generate_series((SELECT date_trunc('month', min(bucket_start)) FROM feature_usage_history),
  now() AT TIME ZONE 'utc', interval '1 month') AS bucket_start
LEFT JOIN used USING (bucket_start) ORDER BY bucket_start

-- active_users
WITH users AS (
  SELECT user_id, max(day) AS latest, count(*) AS days
  FROM (
    SELECT DISTINCT user_id, bucket_start::date AS day FROM feature_usage_history
    WHERE bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '27 days' AND user_id IS NOT NULL
  ) d
  GROUP BY user_id
)
SELECT (now() AT TIME ZONE 'utc')::date AS day,
  count(*) FILTER (WHERE latest >= (now() AT TIME ZONE 'utc')::date) AS dau,
  count(*) FILTER (WHERE latest >= (now() AT TIME ZONE 'utc')::date - 6) AS wau,
  count(*) AS mau, coalesce(sum(days)::float8 / 28 / nullif(count(*), 0), 0) AS stickiness
FROM users

-- spikes
WITH daily AS MATERIALIZED (
  SELECT feature_name, bucket_start::date AS day, sum(usage_count) AS uses
  FROM feature_usage_history
  WHERE bucket_start >= date_trunc('day', now() AT TIME ZONE 'utc') - interval '62 days' AND feature_name IS NOT NULL
  GROUP BY 1, 2
), days AS (
  SELECT feature_name, day, uses, first
  FROM daily JOIN (SELECT feature_name, min(day) AS first FROM daily GROUP BY 1) known USING (feature_name)
  WHERE day >= (now() AT TIME ZONE 'utc')::date - 6 AND uses >= 20 AND first <= day - 7
), usual AS (
  SELECT days.*, array_agg(coalesce(past.uses, 0)) AS past
  FROM days CROSS JOIN generate_series(1, 8) week
  LEFT JOIN daily past ON past.feature_name = days.feature_name AND past.day = days.day - week * 7
  WHERE days.day - week * 7 >= first GROUP BY 1, 2, 3, 4
), high AS (
  SELECT feature_name, day, uses, baseline, score
  FROM usual CROSS JOIN LATERAL (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v) AS baseline FROM unnest(past) v) b
  CROSS JOIN LATERAL (
    SELECT (uses - baseline) / greatest(
      1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(v - baseline)), baseline * 0.1, 1) AS score
    FROM unnest(past) v
  ) s WHERE score >= 5
)
SELECT high.feature_name, high.day, high.uses, high.baseline, high.score, 5 AS threshold
FROM high CROSS JOIN LATERAL (
  SELECT array_agg(uses) AS recent FROM (
    SELECT uses FROM daily WHERE feature_name = high.feature_name AND day < high.day AND day >= high.day - 56 AND uses > 0
    ORDER BY day DESC LIMIT 28
  ) last
) r
CROSS JOIN LATERAL (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY v) AS baseline FROM unnest(recent) v) b
CROSS JOIN LATERAL (
  SELECT (high.uses - b.baseline) / greatest(
    1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(v - b.baseline)), b.baseline * 0.1, 1) AS score
  FROM unnest(recent) v
) s
WHERE s.score >= 5 ORDER BY high.score DESC, day, feature_name

-- variants
SELECT metadata ->> 'variant' AS variant, count(user_id) AS unique_users, sum(usage_count) AS uses,
  count(user_id)::float8 / sum(count(user_id)) OVER () AS share
FROM feature_usage WHERE feature_name = 'feature 7'
GROUP BY variant ORDER BY unique_users DESC, uses DESC, variant

-- related_features
WITH its AS MATERIALIZED (
  SELECT user_id FROM feature_usage WHERE feature_name = 'feature 7' AND user_id IS NOT NULL
), sizes AS (
  SELECT (SELECT count(*) FROM its) AS its,
    (SELECT count(*) FROM (SELECT 1 FROM feature_usage WHERE user_id IS NOT NULL GROUP BY user_id) s) AS everyone
)
SELECT feature_name, common AS unique_users, common::float8 / everyone AS support, common::float8 / its AS confidence,
  common::float8 * everyone / (its::float8 * users) AS lift
FROM (
  SELECT feature_name, count(its.user_id) AS common, count(f.user_id) AS users
  FROM feature_usage f LEFT JOIN its USING (user_id)
  WHERE feature_name <> 'feature 7' GROUP BY feature_name
) pairs CROSS JOIN sizes
WHERE common > 0 ORDER BY common - its::float8 * users / everyone DESC, common DESC, feature_name LIMIT 10

-- recommend
WITH mine AS MATERIALIZED (SELECT feature_name FROM feature_usage WHERE user_id = :user),
similar_users AS MATERIALIZED (
  SELECT user_id, common::float8 / (features + (SELECT count(*) FROM mine) - common) AS weight
  FROM (
    SELECT user_id, count(*) AS features, count(mine.feature_name) AS common
    FROM feature_usage LEFT JOIN mine USING (feature_name) WHERE user_id <> :user GROUP BY user_id
  ) shared WHERE common > 0
)
SELECT feature_name, sum(weight) / (SELECT sum(weight) FROM similar_users) AS score, count(*) AS unique_users
FROM feature_usage JOIN similar_users USING (user_id)
WHERE feature_name NOT IN (SELECT feature_name FROM mine)
GROUP BY feature_name ORDER BY score DESC, feature_name LIMIT 5
