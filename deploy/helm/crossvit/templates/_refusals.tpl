{{- /* Refuses values of which each alone is right, and which together cannot be. */ -}}
{{- define "crossvit.refusals" -}}
{{- $name := include "crossvit.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "%s cannot be the name of a Service, which begins with a letter and has small letters, digits and -: set fullnameOverride" $name) -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and (ne .kind "none") (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %d, over autoscaling.maxReplicas, which is %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- if and (eq .kind "keda") $.Values.monitoring.serviceMonitor.enabled -}}
{{- $interval := $.Values.monitoring.serviceMonitor.interval -}}
{{- if lt (int (include "crossvit.seconds" .keda.window)) (mul 4 (include "crossvit.seconds" $interval)) -}}
{{- fail (printf "autoscaling.keda.window is %s, under four scrapes of %s: a rate of it would miss some" .keda.window $interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.strategy -}}
{{- if and (has (toString .maxUnavailable) (list "0" "0%")) (has (toString .maxSurge) (list "0" "0%")) -}}
{{- fail "strategy.maxUnavailable and strategy.maxSurge are both 0: no pod could ever be replaced" -}}
{{- end -}}
{{- end -}}
{{- range $resource := list "cpu" "memory" -}}
{{- $least := get (default dict $.Values.resources.requests) $resource -}}
{{- $most := get (default dict $.Values.resources.limits) $resource -}}
{{- if and $least $most (gt (int64 (include "crossvit.quantity" $least)) (int64 (include "crossvit.quantity" $most))) -}}
{{- fail (printf "resources.requests.%s is %v, over resources.limits.%s, which is %v" $resource $least $resource $most) -}}
{{- end -}}
{{- end -}}
{{- $labels := keys (fromYaml (include "crossvit.metadata" .)).labels -}}
{{- range $value, $own := dict "podLabels" (list .Values.podLabels (keys (fromYaml (include "crossvit.selector" .)))) "monitoring.labels" (list .Values.monitoring.labels $labels) "podAnnotations" (list .Values.podAnnotations (list "checksum/settings")) -}}
{{- range $key := keys (first $own) -}}
{{- if has $key (last $own) -}}
{{- fail (printf "%s has %s, which is the chart's own" $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.settings.rate_limit (not .Values.keys.existingSecret) -}}
{{- fail "settings.rate_limit is for each API key: set keys.existingSecret too" -}}
{{- end -}}
{{- with .Values.settings.answer_log -}}
{{- $file := . -}}
{{- $mounted := false -}}
{{- range $.Values.extraVolumeMounts -}}
{{- $mounted = or $mounted (hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) (printf "%s/" $file)) -}}
{{- end -}}
{{- if not $mounted -}}
{{- fail (printf "settings.answer_log is %s, where no volume is: mount one by extraVolumes and extraVolumeMounts, in an image with the extra parquet" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Of 90s, 2m or 1h the seconds. */ -}}
{{- define "crossvit.seconds" -}}
{{- mul (regexFind "^[0-9]+" .) (get (dict "s" 1 "m" 60 "h" 3600) (regexFind "[smh]$" .)) -}}
{{- end -}}

{{- /* Of 2, 500M or 4Gi the number. */ -}}
{{- define "crossvit.quantity" -}}
{{- $units := dict "" 1 "M" 1000000 "G" 1000000000 "Mi" 1048576 "Gi" 1073741824 -}}
{{- mul (regexFind "^[0-9]+" (toString .)) (get $units (regexFind "[MGi]*$" (toString .))) -}}
{{- end -}}
