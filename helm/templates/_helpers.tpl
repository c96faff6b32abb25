{{- define "docbatch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 40 characters at most: the suffixes of the components, and the Worker Controller's build ids, must fit behind it. */}}
{{- define "docbatch.fullname" -}}
{{- $name := include "docbatch.name" . }}
{{- $full := default (ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name)) .Values.fullnameOverride }}
{{- $full | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "docbatch.selectorLabels" -}}
app.kubernetes.io/name: {{ include "docbatch.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "docbatch.labels" -}}
{{ include "docbatch.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "docbatch.serviceAccountName" -}}
{{- default (ternary (include "docbatch.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- define "docbatch.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag }}
{{- .Values.image.repository }}{{ ternary (printf "@%s" .Values.image.digest) (printf ":%s" $tag) (ne .Values.image.digest "") }}
{{- end }}

{{- define "docbatch.temporalTLS" -}}
{{- with .Values.temporal }}{{ if or .tls.enabled .tls.existingSecret .tls.caSecret .apiKey.existingSecret }}true{{ end }}{{ end }}
{{- end }}

{{/* The slots of one pod of partitions. */}}
{{- define "docbatch.podSlots" -}}
{{- mul .Values.partitions.processes .Values.partitions.slots }}
{{- end }}

{{/* The TCP port of a URL. */}}
{{- define "docbatch.urlPort" -}}
{{- $url := urlParse . }}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "80" "443" (eq $url.scheme "http")) }}
{{- end }}

{{/* What values.schema.json cannot say clearly. */}}
{{- define "docbatch.check" -}}
{{- if and .Values.temporal.apiKey.existingSecret .Values.temporal.tls.existingSecret }}
{{- fail "temporal.apiKey.existingSecret and temporal.tls.existingSecret are both set: Temporal takes an API key or a client certificate, not both" }}
{{- end }}
{{- if lt (int .Values.keda.maxReplicas) (int .Values.keda.minReplicas) }}
{{- fail (printf "keda.maxReplicas (%v) is less than keda.minReplicas (%v)" .Values.keda.maxReplicas .Values.keda.minReplicas) }}
{{- end }}
{{- end }}
