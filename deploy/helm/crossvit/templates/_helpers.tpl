{{- define "crossvit.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "crossvit.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "crossvit.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "crossvit.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "crossvit.selector" -}}
app.kubernetes.io/name: {{ include "crossvit.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "crossvit.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "crossvit.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "crossvit.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "crossvit.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "crossvit.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* The name of a model that is fetched: the last part of its source, without the revision. */ -}}
{{- define "crossvit.model" -}}
{{- default (.Values.model.source | splitList "@" | first | splitList "/" | last | trimPrefix "hf:") .Values.model.name -}}
{{- end -}}

{{- define "crossvit.bundle" -}}
{{- if eq .Values.model.from "source" -}}
/bundles/{{ include "crossvit.model" . }}
{{- else if eq .Values.model.from "claim" -}}
{{- printf "/bundles/%s" .Values.model.path | trimSuffix "/" -}}
{{- else -}}
/bundles
{{- end -}}
{{- end -}}

{{- /* Of a setting, what the environment has: lists with commas, numbers without an exponent. */ -}}
{{- define "crossvit.setting" -}}
{{- if kindIs "slice" . -}}{{ join "," . }}{{- else if kindIs "string" . -}}{{ . }}{{- else -}}{{ toJson . }}{{- end -}}
{{- end -}}

{{- define "crossvit.settings" -}}
CROSSVIT_HOST: {{ .Values.listen | quote }}
CROSSVIT_PORT: "8000"
CROSSVIT_BUNDLE: {{ include "crossvit.bundle" . | quote }}
CROSSVIT_GRACE_SECONDS: {{ .Values.stop.graceSeconds | quote }}
CROSSVIT_DRAIN_SECONDS: {{ .Values.stop.drainSeconds | quote }}
CROSSVIT_INSTANCES: {{ .Values.instances | quote }}
{{- with .Values.model.default }}
CROSSVIT_DEFAULT_MODEL: {{ . | quote }}
{{- end }}
{{- if .Values.keys.existingSecret }}
CROSSVIT_API_KEYS_FILE: /run/secrets/crossvit/api
{{- if .Values.keys.admin }}
CROSSVIT_ADMIN_KEYS_FILE: /run/secrets/crossvit/admin
{{- end }}
{{- end }}
{{- if .Values.grpc.enabled }}
CROSSVIT_GRPC_PORT: {{ .Values.grpc.port | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
CROSSVIT_{{ upper $name }}: {{ include "crossvit.setting" $value | quote }}
{{- end }}
{{- end -}}

{{- define "crossvit.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "crossvit.writable" -}}
- {name: cache, mountPath: /cache}
- {name: tmp, mountPath: /tmp}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The same without GPUs, which only what computes on them needs. */ -}}
{{- define "crossvit.withoutDevices" -}}
limits:
  {{- pick (default dict .Values.resources.limits) "cpu" "memory" | toYaml | nindent 2 }}
requests:
  {{- pick (default dict .Values.resources.requests) "cpu" "memory" | toYaml | nindent 2 }}
{{- end -}}

{{- define "crossvit.series" -}}
{{- default (printf "namespace=%q,service=%q" .Release.Namespace (include "crossvit.fullname" .)) .Values.autoscaling.keda.selector -}}
{{- end -}}

{{- define "crossvit.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - {type: Percent, value: {{ int .Values.autoscaling.scaleUpPercent }}, periodSeconds: 30}
    - {type: Pods, value: 2, periodSeconds: 30}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies:
    - {type: Percent, value: 50, periodSeconds: 60}
{{- end -}}
